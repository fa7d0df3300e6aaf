"""The environment as a document: ``LLM_PROBE_MODULES__DEFAULT__INTERVAL=30s`` over the same key of a file."""

import re
from collections.abc import Mapping
from typing import Any, Final, get_origin

from pydantic_settings import EnvSettingsSource

from exporter.settings.document import Document, SourceLocation, compose
from exporter.settings.errors import NO_SECRETS, SECRETS, Problem, close_to, inner_type, section_type
from exporter.settings.model import PREFIX, Settings
from exporter.settings.values import quote

NOT_SETTINGS: Final = frozenset({"LLM_PROBE_CONFIG", "LLM_PROBE_CACHE", "LLM_PROBE_REQUIRE_REAL"})
"""Variables with the settings' prefix that belong to the command line and to the tests."""

# Kubernetes gives each container the services of its namespace as variables: those of one named llm-probe-… look like settings.
_SERVICE: Final = re.compile(
    rf"{PREFIX}(?:\w+_)?(?:SERVICE_HOST|SERVICE_PORT(?:_\w+)?|PORT_\d+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?)"
)
_SERVICE_PORT: Final = re.compile(rf"{PREFIX}(?:\w+_)?PORT")
_SERVICE_ADDRESS: Final = re.compile(r"(?:tcp|udp|sctp)://\S+")

# Sorts after every file.
ENVIRONMENT: Final = 1 << 30
NOWHERE: Final = SourceLocation((ENVIRONMENT, 0, 0), "")


class _Source(EnvSettingsSource):
    """pydantic-settings' reading of the environment, with YAML (of which JSON is a part) if a value has parts."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        super().__init__(Settings)
        self.env_vars = {variable.lower(): value for variable, value in variables.items()}
        self.problems: list[tuple[SourceLocation, Problem]] = []

    def decode_complex_value(self, field_name: str, field: Any, value: Any) -> Any:  # noqa: ARG002 - as it is called
        variable = next(name.upper() for name, text in self.env_vars.items() if text is value)
        document = compose(value, ENVIRONMENT, variable)
        self.problems.extend(document.problems)
        return document.data


def read_environment(environ: Mapping[str, str]) -> Document:
    """What the ``LLM_PROBE_`` variables say. One that is empty is left out, one that is no setting is a problem."""
    document = Document({})
    known: dict[str, str] = {}
    for number, variable in enumerate(sorted(environ)):
        if not variable.startswith(PREFIX) or variable in NOT_SETTINGS or not environ[variable]:
            continue
        if _is_of_a_service(variable, environ[variable]):
            continue
        shown = variable if variable.isprintable() else quote(variable)
        location = SourceLocation((ENVIRONMENT, number, 0), shown)
        loc = tuple(variable.removeprefix(PREFIX).lower().split("__"))
        if wrong := _wrong_variable(loc):
            document.problems.append((location, Problem("", wrong, shown)))
        else:
            known[variable] = environ[variable]
            document.locations[loc] = location
    source = _Source(known)
    document.data = source()
    document.problems.extend(source.problems)
    return document


def _is_of_a_service(variable: str, value: str) -> bool:
    """Whether Kubernetes has set it for a service."""
    address = _SERVICE_PORT.fullmatch(variable) and _SERVICE_ADDRESS.fullmatch(value)
    return bool(_SERVICE.fullmatch(variable) or address)


def _wrong_variable(loc: tuple[str, ...]) -> str:
    """Why a variable is not a setting; empty if it is."""
    if loc[-1] in SECRETS:
        return NO_SECRETS.format(name="api_key_file")
    outer: Any = Settings
    for depth, step in enumerate(loc):
        inner = inner_type(outer, step)
        start = PREFIX + "__".join(loc[:depth]).upper()
        if inner is None and (section := section_type(outer)):
            near = close_to(step, section.model_fields)
            joint = "__" if depth else ""
            return "is not a setting" + (f": did you mean {start}{joint}{near.upper()}?" if near else "")
        if inner is None:
            return "is not a setting" + (
                f": give {start} as a whole, in YAML or JSON" if get_origin(outer) is tuple else ""
            )
        outer = inner
    return ""
