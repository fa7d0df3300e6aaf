"""The dashboards, by the rules of Grafana's dashboard linter and some that it lacks."""

import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from itertools import combinations, product
from operator import mul
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from exporter.targets import TARGET_STATES
from exporter.tiers import TIERS
from grafana.boards import BOARDS, VERDICTS
from grafana.build import ROOT
from grafana.panels import IDENTITY_COLORS, SCHEMA_VERSION, STATE_COLORS, TAG, TIER_COLORS, identities, walk_panels
from grafana.promql import selectors

Board = dict[str, Any]
UNITS = {"short", "s", "dtdurations", "percentunit", "decbytes", "Bps", "hertz", "celsius", "watt"}
"""Units of Grafana's own list that stand here; others are suffixes."""
FIXED_WINDOWS = {
    "15m": "skips of a quarter of an hour",
    "2m": "an annotation's width",
    "$__range": "counts over the shown range",
    "$window": "the window that a variable of the board names",
}


def files() -> list[Board]:
    return [
        json.loads(path.read_text(encoding="utf-8")) for path in sorted((ROOT / "grafana/dashboards").glob("*.json"))
    ]


each_board = pytest.mark.parametrize("board", files(), ids=lambda board: board["uid"])


def targets(board: Board) -> Iterator[tuple[str, Board]]:
    return ((panel["title"], target) for panel in walk_panels(board) for target in panel["targets"])


def test_eight_dashboards_with_uids_of_their_own() -> None:
    """Each file is named after its uid, and no uid or title occurs twice."""
    boards = files()
    assert len(boards) == len({board["uid"] for board in boards}) == len({board["title"] for board in boards}) == 8
    assert {path.stem for path in (ROOT / "grafana/dashboards").glob("*.json")} == {board["uid"] for board in boards}


@each_board
def test_the_format_is_the_classic_one(board: Board) -> None:
    """File provisioning refuses the newer formats, and never fills ``__inputs``."""
    assert {"panels", "schemaVersion", "uid"} <= set(board)
    assert not {"apiVersion", "kind", "elements", "layout", "__inputs"} & set(board)
    assert board["schemaVersion"] == SCHEMA_VERSION
    assert board["id"] is None
    assert board["editable"] is False
    assert TAG in board["tags"]


@each_board
def test_variables_are_chained_and_read_again_with_the_time(board: Board) -> None:
    """A data source, job and instance as the linter wants them, and queries that parse."""
    variables = {variable["name"]: variable for variable in board["templating"]["list"]}
    assert variables["datasource"]["label"] == "Data source"
    for name in ("job", "instance"):
        assert variables[name]["label"] == name
        assert variables[name]["multi"]
        assert variables[name]["allValue"] == ".+"
    for variable in variables.values():
        if variable["type"] != "query":
            continue
        assert variable["refresh"] == 2
        assert variable["datasource"]["uid"] == "${datasource}"
        inner = re.fullmatch(r"label_values\((.*), \w+\)", variable["query"]["query"])
        assert inner
        assert list(selectors(inner[1]))
    assert 'job=~"$job"' in variables["instance"]["query"]["query"]


@each_board
def test_every_panel_is_explained(board: Board) -> None:
    """Title, description, unit, a text for no data, the data source variable, and at least one query."""
    titles = Counter(panel["title"] for panel in walk_panels(board))
    assert max(titles.values()) == 1
    for panel in walk_panels(board):
        defaults = panel["fieldConfig"]["defaults"]
        assert panel["description"], panel["title"]
        assert defaults["noValue"], panel["title"]
        assert defaults["unit"] in UNITS or defaults["unit"].startswith("suffix:"), panel["title"]
        assert panel["datasource"]["uid"] == "${datasource}"
        assert panel["targets"], panel["title"]
        assert all(target["datasource"]["uid"] == "${datasource}" for target in panel["targets"])
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])


@each_board
def test_every_selector_keeps_to_the_chosen_hosts(board: Board) -> None:
    """Job and instance in each selector; they are regular expressions of the variables."""
    for title, target in targets(board):
        for selector in selectors(target["expr"]):
            labels = {matcher.name for matcher in selector.matchers.matchers}
            assert {"job", "instance"} <= labels, f"{title}: {selector.name}"
        assert target["expr"].count('job=~"$job", instance=~"$instance"') == len(list(selectors(target["expr"]))), title


@each_board
def test_rates_follow_the_shown_interval(board: Board) -> None:
    """``rate`` and ``increase`` use ``$__rate_interval``, but for windows that the panel's text names."""
    for panel in walk_panels(board):
        said = re.findall(r"\b\d+[smhd]\b", panel["description"])
        for target in panel["targets"]:
            for window in re.findall(r"(?:rate|irate|increase)\([^\[]*\[([^\]]+)\]", target["expr"]):
                assert window in {"$__rate_interval", *FIXED_WINDOWS, *said}, f"{panel['title']}: {window}"


@each_board
def test_counters_are_only_read_as_rates(board: Board) -> None:
    """A bare counter would show when the exporter started, not what happens."""
    for title, target in targets(board):
        for match in re.finditer(r"\b\w+_total\{", target["expr"]):
            before = target["expr"][: match.start()]
            assert re.search(r"(rate|increase)\($", before), f"{title}: {target['expr']}"


@each_board
def test_a_subquery_has_a_short_step(board: Board) -> None:
    """Prometheus computes it at whole multiples of the step, so a new exporter is not shown before the next one."""
    for title, target in targets(board):
        for step in re.findall(r"\[[$\w]+:(\w*)\]", target["expr"]):
            assert step == "10s", f"{title}: {step}"


@each_board
def test_panels_do_not_overlap(board: Board) -> None:
    """Within 24 columns, no cell twice, ids unique."""
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])


@each_board
def test_links_lead_to_dashboards_that_have_the_variables(board: Board) -> None:
    """A link carries the time and the data source, and only variables that its goal has."""
    goals = {goal["uid"]: {variable["name"] for variable in goal["templating"]["list"]} for goal in BOARDS}
    for url in re.findall(r'"url": "(/d/[^"]+)"', json.dumps(board)):
        uid = url.removeprefix("/d/").partition("?")[0]
        assert "${__url_time_range}" in url
        assert "${datasource:queryparam}" in url
        assert set(re.findall(r"var-(\w+)=", url)) <= goals[uid]
    (link,) = board["links"]
    assert link["includeVars"]
    assert link["keepTime"]


def test_tiers_are_coloured_by_name_and_drawn_from_the_exporter() -> None:
    """No panel has a tier's figure as a threshold; every tier has a verdict, in its colour."""
    assert list(TIER_COLORS) == list(TIERS)
    assert {name: color for name, color in VERDICTS.values() if name in TIER_COLORS} == TIER_COLORS
    for board in files():
        for panel in walk_panels(board):
            if panel["fieldConfig"]["defaults"]["unit"] == "suffix:tok/s":
                steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
                assert [step["value"] for step in steps] == [None], panel["title"]


def test_every_dashboard_has_its_pictures_and_its_description() -> None:
    """docs/dashboards.md has a heading for each, which the runbook links to, and both pictures lie there, not too large."""
    page = (ROOT / "docs/dashboards.md").read_text(encoding="utf-8")
    for board in files():
        assert f"\n## {board['title']}\n" in page
        for theme in ("dark", "light"):
            picture = f"images/dashboards/{board['uid'].removeprefix('llm-')}-{theme}.png"
            assert f"({picture})" in page
            assert 0 < (ROOT / "docs" / picture).stat().st_size <= 300_000


@each_board
def test_counts_of_probes_have_a_step_that_holds_some(board: Board) -> None:
    """A slow server is probed every few minutes: a rate over seconds would mostly be empty."""
    for panel in walk_panels(board):
        if any(
            re.search(r"llm_probe\w*_(total|bucket)\{.*\$__rate_interval", target["expr"])
            for target in panel["targets"]
        ):
            assert panel["interval"] == "5m", panel["title"]


@each_board
def test_no_text_for_emptiness_asserts_a_fact(board: Board) -> None:
    """Where a query has no row, the panel says that nothing is known: not that all is well, nor that something doesn't exist."""
    for panel in walk_panels(board):
        defaults = panel["fieldConfig"]["defaults"]
        overridden = [
            each["value"]
            for override in panel["fieldConfig"]["overrides"]
            for each in override["properties"]
            if each["id"] == "noValue"
        ]
        for text in (defaults["noValue"], *overridden):
            assert re.match(r"(No data|not known|not measured|needs 3 probes of each|–)", text), (panel["title"], text)
        for target in panel["targets"]:
            assert "vector(" not in target["expr"], f"{panel['title']}: a figure although nothing is known"


@each_board
def test_identities_never_have_the_colour_of_a_state(board: Board) -> None:
    """A line that is a server, a sensor or a percentile has a colour of its own; red, orange and green say how something is."""
    assert not set(IDENTITY_COLORS) & STATE_COLORS
    assert "palette-classic" not in json.dumps(board)
    states = re.compile(
        r"\^?(excellent|good|acceptable|minimum|slower|ok|loading|skipped_busy|(up|down|unknown)$|\.\* (right|undecided|\(wrong)|\(skipped_|\.\*( \.\*)?\$|\.\* )"
    )
    for panel in walk_panels(board):
        if panel["type"] not in {"timeseries", "heatmap"}:
            continue
        assert panel["fieldConfig"]["defaults"]["color"] == {"mode": "fixed", "fixedColor": IDENTITY_COLORS[0]}
        for where, color in colors(panel):
            if color["fixedColor"] in STATE_COLORS:
                assert states.match(where), (panel["title"], where)
            else:
                assert color["mode"] == "fixed"
                assert color["fixedColor"] in {*IDENTITY_COLORS, "text"}, (panel["title"], where)


def colors(panel: Board) -> Iterator[tuple[str, Board]]:
    """The colours of a panel's overrides: what they match, and the colour mode."""
    for override in panel["fieldConfig"]["overrides"]:
        for each in override["properties"]:
            if each["id"] == "color":
                yield override["matcher"]["options"], each["value"]


LABELS = {
    "phase": ("resolve", "connect", "tls", "queue", "first_token", "decode"),
    "state": TARGET_STATES,
    "kind": ("prompt", "output"),
    "depth": ("short", "deep"),
    "verdict": ("right", "wrong", "degenerate", "foreign", "undecided"),
}
"""Labels of legends that have few values."""


def legends(target: Board) -> Iterator[str]:
    """The names that the lines of a query may have; a label of many values is ``1``."""
    labels = re.findall(r"{{(\w+)}}", target["legendFormat"])
    for values in product(*(LABELS.get(label, ("1",)) for label in labels)):
        name = target["legendFormat"]
        for label, value in zip(labels, values, strict=True):
            name = name.replace(f"{{{{{label}}}}}", value)
        yield name


@each_board
def test_every_line_has_a_colour_of_its_name(board: Board) -> None:
    """A panel's default colour is for a panel of one line: two lines would share it."""
    for panel in walk_panels(board):
        if panel["type"] == "timeseries":
            names = [name for target in panel["targets"] for name in legends(target)]
            without = [name for name in names if not any(re.fullmatch(of, name) for of, _ in colors(panel))]
            alone = len(names) == 1 and "{{" not in panel["targets"][0]["legendFormat"]
            assert alone or not without, (panel["title"], without)


STATE_HEX = (
    *("#37872d", "#73bf69", "#56a64b", "#fade2a", "#f2cc0c", "#ff9830", "#ff780a", "#f2495c", "#e02f44", "#c4162a"),
    *("#5794f2", "#3274d9", "#b877d9", "#a352cc", "#8e8e8e"),
)
"""What Grafana draws for the states' colours, in its dark and its light theme."""


BACKGROUNDS = ("#181b1f", "#ffffff")
"""Of a panel, in the dark and in the light theme."""
Sight = tuple[tuple[float, float, float], ...]
EVERYONE: Sight = ((1, 0, 0), (0, 1, 0), (0, 0, 1))
RED_GREEN_BLIND: tuple[Sight, ...] = (
    ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881)),
)
"""Without the red cones and without the green ones, on linear light (Machado, Oliveira and Fernandes 2009)."""


def linear(colour: str) -> list[float]:
    """Red, green and blue light, 0 to 1."""
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    return [each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in parts]


def contrast(one: str, other: str) -> float:
    """Of two colours as WCAG has it: 1 is none, 21 that of black on white."""
    light = sorted(sum(map(mul, (0.2126, 0.7152, 0.0722), linear(each)), 0.05) for each in (one, other))
    return light[1] / light[0]


def difference(one: str, other: str, sight: Sight = EVERYONE) -> float:
    """How far apart two colours look: their distance in Oklab, in which black and white are 1 apart."""
    return math.dist(oklab(one, sight), oklab(other, sight))


def oklab(colour: str, sight: Sight) -> tuple[float, float, float]:
    light = linear(colour)
    red, green, blue = (min(1.0, max(0.0, sum(map(mul, row, light)))) for row in sight)
    long = (0.4122214708 * red + 0.5363325363 * green + 0.0514459929 * blue) ** (1 / 3)
    medium = (0.2119034982 * red + 0.6806995451 * green + 0.1073969566 * blue) ** (1 / 3)
    short = (0.0883024619 * red + 0.2817188376 * green + 0.6299787005 * blue) ** (1 / 3)
    return (
        0.2104542553 * long + 0.7936177850 * medium - 0.0040720468 * short,
        1.9779984951 * long - 2.4285922050 * medium + 0.4505937099 * short,
        0.0259040371 * long + 0.7827717662 * medium - 0.8086757660 * short,
    )


def test_identities_differ_from_one_another_and_from_states() -> None:
    """No two look alike, to red-green blind people either, and none looks like a state; a distance of 0.02 can just be seen."""
    pairs = list(combinations(IDENTITY_COLORS, 2))
    assert min(difference(one, other) for one, other in pairs) >= 0.15
    assert min(difference(one, other, sight) for one, other in pairs for sight in RED_GREEN_BLIND) >= 0.069
    assert min(difference(one, state) for one in IDENTITY_COLORS for state in STATE_HEX) >= 0.09
    assert min(contrast(one, background) for one in IDENTITY_COLORS for background in BACKGROUNDS) >= 2.2


def look_of(name: str) -> tuple[str, bool]:
    """The colour that a line of this name gets, and whether it has gaps."""
    fits = [each["properties"] for each in identities() if re.fullmatch(each["matcher"]["options"], name)]
    (color,) = (each["value"]["fixedColor"] for (each,) in fits if each["id"] == "color")
    return color, any(each["id"] == "custom.lineStyle" for (each,) in fits)


@pytest.mark.parametrize(
    "form", ["gpu-{} default · box:9937", "node1{}.example:9937", "vllm · framework{}:9937", "10.0.0.{}:9937"]
)
def test_names_that_differ_in_a_digit_differ_in_colour(form: str) -> None:
    """Eight hosts of one rack have eight colours, whatever stands beside their number."""
    assert {look_of(form.format(number))[0] for number in range(1, 9)} == set(IDENTITY_COLORS)


BACKENDS = ("vllm", "llama-cpp", "ollama", "lm-studio", "lemonade", "sglang", "textgen", "transformers")


@pytest.mark.parametrize("form", ["{} default · box:9937", "{} · framework:9937"])
def test_the_usual_names_of_servers_differ(form: str) -> None:
    """People name a server after its software: no two such lines look the same."""
    assert len({look_of(form.format(name)) for name in BACKENDS}) == len(BACKENDS)


@given(st.text())
def test_every_name_has_one_colour(name: str) -> None:
    """Each line has a colour of an identity, and only one rule gives it."""
    assume("\n" not in name)
    assert look_of(name)[0] in IDENTITY_COLORS


@each_board
def test_no_data_has_no_colour_that_says_well(board: Board) -> None:
    """The colour of a figure that isn't there is that of the lowest step: grey or the text's, never green."""
    for panel in walk_panels(board):
        if panel["type"] == "stat":
            first = panel["fieldConfig"]["defaults"]["thresholds"]["steps"][0]
            assert (first["color"], first["value"]) in {("text", None), ("#8e8e8e", None)}, panel["title"]


NARROW = 800.0
"""Pixels of the narrowest page on which the grid still has its 24 columns."""


@each_board
def test_titles_fit_a_narrow_page(board: Board) -> None:
    """At 800 pixels no title is cut, of which the panel's edges and its sign for the description take 71."""
    for panel in walk_panels(board):
        room = panel["gridPos"]["w"] * (NARROW - 32) / 24 - 71
        assert pixels(panel["title"]) <= room, f"{panel['title']}: {pixels(panel['title'])} of {room:.0f} pixels"


def pixels(title: str) -> float:
    """About how wide a title is in Inter of 14 pixels, medium: measured on drawn titles, with narrow and wide letters apart."""
    narrow, wide = "fijlrtI ,:'-", "mwABCDEGHKMNOPQRSTUVWXYZ"
    return sum(4.5 if each in narrow else 9.5 if each in wide else 8.0 for each in title)


@each_board
def test_a_column_of_models_keeps_its_width(board: Board) -> None:
    """Names of models are long, and without their ends they can't be told apart."""
    for panel in walk_panels(board):
        renamed = [each["options"].get("renameByName", {}) for each in panel["transformations"]]
        if panel["type"] == "table" and any("Model" in names.values() for names in renamed):
            (width,) = [
                each["value"]
                for override in panel["fieldConfig"]["overrides"]
                if override["matcher"]["options"] == "Model"
                for each in override["properties"]
                if each["id"] == "custom.minWidth"
            ]
            assert width >= 230, panel["title"]
