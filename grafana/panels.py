"""Builders of classic dashboard JSON: panels as plain dicts, and a page that places them."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, Literal

Panel = dict[str, Any]
Target = dict[str, Any]

DATASOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
TOKENS_PER_SECOND: Final = "suffix:tok/s"
DURATION: Final = "dtdurations"
"""Of Grafana's units of time the one that counts right: "1 minute", where "s" says "1 mins"."""
SCHEMA_VERSION: Final = 39
TAG: Final = "llm-probe"
PROBES_SHOW: Final = "5m"
"""Least step of panels that count probes: a slow server is probed every few minutes, and a shorter step would often hold none."""

TIER_COLORS: Final = {"excellent": "dark-green", "good": "green", "acceptable": "yellow", "poor": "orange"}
"""Tiers are coloured by their names, never by a number."""

STATE_COLORS: Final = frozenset(
    {*TIER_COLORS.values(), "red", "dark-red", "blue", "purple", "#8e8e8e", "semi-dark-orange"}
)
"""Colours that say how something is: identities never have them."""
IDENTITY_COLORS: Final = ("#29b5bf", "#e02fa8", "#8a5a2b", "#5b45f0", "#c79e76", "#2e7b9c", "#932d78", "#a3a3fa")
"""Cyan, magenta, brown, indigo, sand, petrol, plum and lavender: colours of what has no state, such as a server, a sensor or a percentile."""
_SETS: Final = ("13579q-z", "2367d-y", "4567h-n")
_BROKEN: Final = "479f-v"
"""Digits by the bits of their value, so that 1 to 8 differ, and letters so that the usual names of servers and hosts do."""


def query(
    expression: str, legend: str = "", *, instant: bool = False, table: bool = False, heatmap: bool = False
) -> Target:
    """A Prometheus query; its refId comes from its place in the panel."""
    form = "table" if table else "heatmap" if heatmap else "time_series"
    return {
        "datasource": DATASOURCE,
        "editorMode": "code",
        "expr": expression,
        "format": form,
        "instant": instant or table,
        "range": not (instant or table),
        "legendFormat": legend or "__auto",
    }


def _panel(
    kind: str, title: str, description: str, targets: Sequence[Target], size: tuple[int, int], *,
    unit: str, options: Mapping[str, Any], custom: Mapping[str, Any] | None = None, color: Mapping[str, Any] | None = None,
    mappings: Sequence[Any] = (), overrides: Sequence[Any] = (), thresholds: Sequence[tuple[str, float | None]] = (),
    no_value: str = "No data", minimum: float | None = None, maximum: float | None = None, decimals: int | None = None,
    transformations: Sequence[Any] = (), links: Sequence[Any] = (),
) -> Panel:  # fmt: skip
    defaults: dict[str, Any] = {
        "unit": unit,
        "noValue": no_value,
        "color": dict(color or fixed(IDENTITY_COLORS[0])),
        "custom": dict(custom or {}),
        "mappings": list(mappings),
        "thresholds": {
            "mode": "absolute",
            "steps": [{"color": shade, "value": value} for shade, value in thresholds or (("text", None),)],
        },
    }
    bounds = {"min": minimum, "max": maximum, "decimals": decimals}
    defaults |= {key: value for key, value in bounds.items() if value is not None}
    if links:
        defaults["links"] = list(links)
    made: Panel = {
        "type": kind,
        "title": title,
        "description": description,
        "datasource": DATASOURCE,
        "targets": [{"refId": chr(ord("A") + place), **target} for place, target in enumerate(targets)],
        "fieldConfig": {"defaults": defaults, "overrides": list(overrides)},
        "options": dict(options),
        "transformations": list(transformations),
        "gridPos": {"w": size[0], "h": size[1]},
    }
    if any(re.search(r"llm_probes?_(\w+_)?(total|bucket)\b.*\$__rate_interval", target["expr"]) for target in targets):
        made["interval"] = PROBES_SHOW
    return made


def fixed(color: str) -> dict[str, str]:
    """A colour mode: this colour, whatever the value."""
    return {"mode": "fixed", "fixedColor": color}


def identities() -> list[dict[str, Any]]:
    """Overrides that give each line one of the eight colours of identities, whole or broken, which its name decides.

    Grafana's palettes contain the states' colours, and its overrides can't count. So sets of letters and digits decide: three of
    them by whether a name has an odd number of each, and one whether the line has gaps. Names that differ in one digit differ.
    """
    colors = (override("byRegexp", _pattern(place), color=fixed(color)) for place, color in enumerate(IDENTITY_COLORS))
    broken = override("byRegexp", f"^(?!{_even(_BROKEN)}).*", custom__lineStyle={"fill": "dash", "dash": [12, 4]})
    return [*colors, broken]


def _pattern(place: int) -> str:
    """A pattern of the names of which this colour is: its place (0 to 7) has a bit for each set, 1 for an odd number."""
    return (
        "^" + "".join(f"(?{'!' if place >> bit & 1 else '='}{_even(those)})" for bit, those in enumerate(_SETS)) + ".*"
    )


def _even(those: str) -> str:
    """A pattern of the texts that have an even number of these characters."""
    return f"([^{those}]*[{those}][^{those}]*[{those}])*[^{those}]*$"


def named(*names: str) -> list[dict[str, Any]]:
    """Overrides for the lines of a panel that are known by name: a colour for each, in order."""
    return [
        override("byName", name, color=fixed(color))
        for name, color in zip(names, (*IDENTITY_COLORS, "text"), strict=False)
    ]


def values(names: Mapping[str, tuple[str, str]]) -> list[dict[str, Any]]:
    """A value mapping: value → (text, colour)."""
    options = {
        value: {"text": text, "color": color, "index": place}
        for place, (value, (text, color)) in enumerate(names.items())
    }
    return [{"type": "value", "options": options}]


def override(matcher: str, value: str, **properties: Any) -> dict[str, Any]:
    """Field properties for the fields that match: ``byName``, ``byRegexp`` or ``byFrameRefID``."""
    return {
        "matcher": {"id": matcher, "options": value},
        "properties": [{"id": key.replace("__", "."), "value": setting} for key, setting in properties.items()],
    }


def dashed(pattern: str, color: str) -> dict[str, Any]:
    """A bound rather than a measurement: a thin dashed line without fill."""
    return override(
        "byRegexp",
        pattern,
        color=fixed(color),
        custom__lineStyle={"fill": "dash", "dash": [6, 6]},
        custom__lineWidth=1,
        custom__fillOpacity=0,
        custom__showPoints="never",
    )


def tier_lines() -> list[dict[str, Any]]:
    """Overrides for series that are named after the tiers whose lower bounds they are."""
    return [dashed(f"^{tier} from.*", TIER_COLORS[tier]) for tier in ("excellent", "good", "acceptable")]


def timeseries(
    title: str, description: str, targets: Sequence[Target], size: tuple[int, int] = (12, 8), *,
    unit: str = "short", stacked: bool = False, fill: int = 0, bars: bool = False, legend: Literal["bottom", "right"] = "bottom",
    logarithmic: bool = False, identified: bool = False, **more: Any,
) -> Panel:  # fmt: skip
    """Lines over time. Series that stop leave a gap: nothing was measured then.

    ``identified``: the lines are servers, hosts or the like, each with the colour of its name.
    """
    custom: dict[str, Any] = {
        "drawStyle": "bars" if bars else "line",
        "lineInterpolation": "stepAfter",
        "lineWidth": 0 if bars else 2,
        "fillOpacity": 80 if bars else fill,
        "gradientMode": "none",
        "showPoints": "never",
        "spanNulls": False,
        "stacking": {"mode": "normal" if stacked else "none", "group": "A"},
        "axisPlacement": "auto",
        "scaleDistribution": {"type": "log", "log": 2} if logarithmic else {"type": "linear"},
        "thresholdsStyle": {"mode": "off"},
    }
    beside = legend == "right"
    options = {
        "legend": {
            "displayMode": "table" if beside else "list",
            "placement": legend,
            "showLegend": True,
            "calcs": ["lastNotNull"] if beside else [],
        },
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    if not logarithmic:
        more.setdefault("minimum", 0)
    if unit == "percentunit" and "maximum" not in more:
        custom["axisSoftMax"] = 0.001  # where all is 0, the axis would go up to 10000 %
    if identified:
        more["overrides"] = [*identities(), *more.get("overrides", ())]
    return _panel("timeseries", title, description, targets, size, unit=unit, options=options, custom=custom, **more)


def stat(
    title: str, description: str, targets: Sequence[Target], size: tuple[int, int] = (4, 4), *,
    unit: str = "short", background: bool = False, names: bool = False, only_names: bool = False, rows: bool = False,
    wide: bool = True, value_size: int | None = None, **more: Any,
) -> Panel:  # fmt: skip
    """One number, or one for each series: one below the other with ``rows``. Coloured only if thresholds or mappings judge it.

    ``wide``: in a low panel, Grafana may put a name at the far left of its number.

    ``value_size`` is in pixels.
    """
    judged = bool(more.get("mappings") or more.get("thresholds"))
    if background:
        more.setdefault("thresholds", (("#8e8e8e", None),))  # a background in the colour of text is nearly black
    more.setdefault("color", {"mode": "thresholds"})
    options: dict[str, Any] = {
        "colorMode": ("background" if background else "value") if judged else "none",
        "graphMode": "none",
        "justifyMode": "auto",
        "orientation": "horizontal" if rows else "auto",
        "textMode": "name" if only_names else "value_and_name" if names else "value",
        "wideLayout": wide and not rows,
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
    }
    if value_size is not None:
        options["text"] = {"valueSize": value_size}
    elif rows:
        options["text"] = {"titleSize": 12, "valueSize": 22}  # what Grafana chooses is too small beside a long name
    elif not wide:
        options["text"] = {"titleSize": 12, "valueSize": 30}
    return _panel("stat", title, description, targets, size, unit=unit, options=options, **more)


def state_timeline(
    title: str, description: str, targets: Sequence[Target], size: tuple[int, int], mappings: Sequence[Any], **more: Any
) -> Panel:
    """A band for each series, coloured by what its value means."""
    options = {
        "mergeValues": True,
        "showValue": "auto",
        "alignValue": "left",
        "rowHeight": 0.85,
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
        "tooltip": {"mode": "single", "sort": "none"},
    }
    more.setdefault("color", fixed("text"))
    return _panel(
        "state-timeline", title, description, targets, size, unit="short", options=options,
        custom={"lineWidth": 0, "fillOpacity": 85}, mappings=mappings, **more,
    )  # fmt: skip


def bar_gauge(
    title: str, description: str, targets: Sequence[Target], size: tuple[int, int], *, unit: str, **more: Any
) -> Panel:
    """A bar for each series."""
    options = {
        "displayMode": "basic",
        "orientation": "horizontal",
        "showUnfilled": True,
        "valueMode": "color",
        "namePlacement": "top",
        "text": {"titleSize": 13},
        "sizing": "auto",
        "minVizWidth": 8,
        "minVizHeight": 16,
        "maxVizHeight": 40,
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
    }
    more.setdefault("minimum", 0)
    more.setdefault("color", {"mode": "thresholds"})
    return _panel("bargauge", title, description, targets, size, unit=unit, options=options, **more)


def heatmap(title: str, description: str, targets: Sequence[Target], size: tuple[int, int], *, unit: str) -> Panel:
    """Histogram buckets over time."""
    options = {
        "calculate": False,
        "cellGap": 1,
        "color": {
            "mode": "scheme",
            "scheme": "Blues",
            "steps": 64,
            "exponent": 0.5,
            "fill": "dark-orange",
            "reverse": False,
        },
        "yAxis": {"axisPlacement": "left", "unit": unit},
        "rowsFrame": {"layout": "auto"},
        "cellValues": {},
        "filterValues": {"le": 1e-9},
        "legend": {"show": True},
        "tooltip": {"mode": "single", "yHistogram": False, "showColorScale": False},
        "exemplars": {"color": "rgba(255,0,255,0.7)"},
    }
    return _panel("heatmap", title, description, targets, size, unit=unit, options=options)


def table(
    title: str, description: str, targets: Sequence[Target], size: tuple[int, int], *,
    columns: Mapping[str, str], overrides: Sequence[Any] = (), sort: tuple[str, bool] | None = None, **more: Any,
) -> Panel:  # fmt: skip
    """One row for each combination of labels. ``columns`` maps field → heading, in order; other fields are hidden."""
    options: dict[str, Any] = {
        "showHeader": True,
        "cellHeight": "sm",
        "footer": {"show": False, "reducer": [], "fields": ""},
    }
    if sort:
        options["sortBy"] = [{"displayName": sort[0], "desc": sort[1]}]
    transformations = [
        {"id": "merge", "options": {}},
        {"id": "filterFieldsByName", "options": {"include": {"names": list(columns)}}},
        {
            "id": "organize",
            "options": {
                "excludeByName": {},
                "indexByName": {name: place for place, name in enumerate(columns)},
                "renameByName": dict(columns),
            },
        },
    ]
    return _panel(
        "table", title, description, targets, size, unit="short", options=options,
        overrides=[override("byRegexp", ".*", noValue="–"), *overrides],
        custom={"align": "auto", "cellOptions": {"type": "auto"}, "inspect": False, "filterable": False, "minWidth": 50},
        color={"mode": "thresholds"}, transformations=transformations, **more,
    )  # fmt: skip


def row(title: str) -> Panel:
    """A heading over the panels that follow."""
    return {"type": "row", "title": title, "collapsed": False, "panels": [], "gridPos": {"w": 24, "h": 1}}


def place(panels: Sequence[Panel]) -> list[Panel]:
    """The panels from left to right, a new line if one doesn't fit, with ids in their order."""
    x = y = height = 0
    placed = []
    for number, panel in enumerate(panels, start=1):
        width, tall = panel["gridPos"]["w"], panel["gridPos"]["h"]
        if x + width > 24:
            x, y, height = 0, y + height, 0
        placed.append({"id": number, **panel, "gridPos": {"h": tall, "w": width, "x": x, "y": y}})
        x, height = x + width, max(height, tall)
    return placed


def variable(name: str, label: str, definition: str, *, multi: bool = True, current: str = "") -> dict[str, Any]:
    """A chained query variable that is read again when the time range changes."""
    chosen = {"text": current, "value": current} if current else {"text": ["All"], "value": ["$__all"]}
    made: dict[str, Any] = {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": DATASOURCE,
        "definition": definition,
        "query": {"query": definition, "refId": f"variable-{name}"},
        "refresh": 2,
        "sort": 1,
        "multi": multi,
        "includeAll": multi,
        "hide": 0,
        "regex": "",
        "options": [],
        "current": chosen if multi or current else {},
    }
    if multi:
        made["allValue"] = ".+"
    return made


def custom_variable(name: str, label: str, choices: Mapping[str, str], current: str) -> dict[str, Any]:
    """A variable with fixed choices, text → value; ``current`` is a value."""
    (shown,) = (text for text, value in choices.items() if value == current)
    return {
        "name": name,
        "label": label,
        "type": "custom",
        "query": ",".join(value if text == value else f"{text} : {value}" for text, value in choices.items()),
        "options": [{"text": text, "value": value, "selected": value == current} for text, value in choices.items()],
        "current": {"text": shown, "value": current},
        "multi": False,
        "includeAll": False,
        "hide": 0,
    }


def datasource_variable() -> dict[str, Any]:
    """Which Prometheus: every query uses it."""
    return {
        "name": "datasource",
        "label": "Data source",
        "type": "datasource",
        "query": "prometheus",
        "regex": "",
        "refresh": 1,
        "hide": 0,
        "multi": False,
        "includeAll": False,
        "options": [],
        "current": {},
    }


def annotation(
    name: str, expression: str, color: str, title: str, text: str = "", *, enable: bool = True
) -> dict[str, Any]:
    """Marks on every graph of the page where the expression has a value above 0."""
    return {
        "name": name,
        "enable": enable,
        "hide": False,
        "datasource": DATASOURCE,
        "expr": expression,
        "iconColor": color,
        "step": "60s",
        "titleFormat": title,
        "textFormat": text,
        "tagKeys": "",
        "useValueForTime": False,
    }


def dashboard(
    uid: str, title: str, description: str, variables: Sequence[Any], panels: Sequence[Panel], *,
    annotations: Sequence[Any] = (), period: str = "now-6h",
) -> dict[str, Any]:  # fmt: skip
    """A whole dashboard with a stable uid, not editable, linked to its sisters."""
    built_in = {
        "builtIn": 1,
        "datasource": {"type": "grafana", "uid": "-- Grafana --"},
        "enable": True,
        "hide": True,
        "iconColor": "rgba(0, 211, 255, 1)",
        "name": "Annotations & Alerts",
        "type": "dashboard",
    }
    link = {
        "title": "LLM dashboards",
        "type": "dashboards",
        "tags": [TAG],
        "asDropdown": True,
        "includeVars": True,
        "keepTime": True,
        "targetBlank": False,
        "icon": "external link",
        "tooltip": "",
        "url": "",
    }
    return {
        "id": None,
        "uid": uid,
        "title": title,
        "description": description,
        "tags": [TAG],
        "schemaVersion": SCHEMA_VERSION,
        "editable": False,
        "graphTooltip": 1,
        "timezone": "browser",
        "refresh": "1m",
        "time": {"from": period, "to": "now"},
        "timepicker": {},
        "fiscalYearStartMonth": 0,
        "links": [link],
        "annotations": {"list": [built_in, *annotations]},
        "templating": {"list": [datasource_variable(), *variables]},
        "panels": place(panels),
    }


def walk_panels(board: Mapping[str, Any]) -> Iterator[Panel]:
    """Every panel that isn't a row."""
    return (panel for panel in board["panels"] if panel["type"] != "row")


def panel_ids(board: Mapping[str, Any]) -> dict[str, int]:
    """Title → id."""
    return {panel["title"]: panel["id"] for panel in walk_panels(board)}
