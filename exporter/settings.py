"""What the user decided: a YAML file, the environment over it, keys in files of their own; frozen models, every typo an error.

This is the only door to YAML and pydantic. ``load`` and ``load_profiles`` either return what is right as a whole or raise
``SettingsError`` with everything that is wrong, each with its path (``targets[1].url``) and its place in the file.
"""

import difflib
import functools
import glob
import ipaddress
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar, get_args, get_origin
from urllib.parse import urlsplit

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

Backend = Literal["auto", "vllm", "llama_cpp", "ollama", "text_generation_webui", "transformers", "openai", "simulator"]

PREFIX: Final = "LLM_PROBE_"
NOT_SETTINGS: Final = frozenset({"LLM_PROBE_CONFIG", "LLM_PROBE_CACHE", "LLM_PROBE_REQUIRE_REAL"})
"""Variables with the settings' prefix that belong to the command line and the tests."""
PROFILES: Final = Path(__file__).with_name("profiles.yaml")

# Bounds on what a file may cost to read: room for some ten thousand targets, none for a bomb.
MAX_BYTES: Final = 1 << 20
MAX_VALUES: Final = 200_000
MAX_DEPTH: Final = 16
MAX_NAME: Final = 128
MAX_SECONDS: Final = 30 * 86400.0


M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong: where in the settings, in words, and where in which file or variable."""

    path: str
    message: str
    source: str = ""

    def __str__(self) -> str:
        return ": ".join(part for part in (self.source, self.path, self.message) if part)


class SettingsError(Exception):
    """Settings that can't be used; ``errors`` has everything that is wrong with them, in the order of the files."""

    def __init__(self, errors: Iterable[Problem]) -> None:
        self.errors = tuple(errors)
        super().__init__("\n".join(map(str, self.errors)))


# Values --------------------------------------------------------------------------------------------------------------

_NUMBER = r"\d+(?:\.\d+)?"
_DURATION = re.compile("".join(f"(?:(?P<{unit}>{_NUMBER}){unit})?" for unit in ("d", "h", "m", "s", "ms")), re.ASCII)
_SECONDS: Final = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}


def parse_duration(text: str) -> float:
    """Seconds of ``500ms``, ``60s``, ``5m``, ``1h30m``, ``2d``; ValueError for anything else."""
    if re.fullmatch(_NUMBER, text, re.ASCII):
        raise ValueError(f"has no unit: write {text}s, {text}m or {text}h")
    match = _DURATION.fullmatch(text)
    if not text or match is None:
        raise ValueError(f"is not a duration: {_quote(text)}; write it like 500ms, 60s, 5m or 1h30m")
    seconds = math.fsum(float(number) * _SECONDS[unit] for unit, number in match.groupdict().items() if number)
    if seconds > MAX_SECONDS:
        raise ValueError("is longer than 30 days")
    return seconds


def format_duration(seconds: float) -> str:
    """The shortest text that ``parse_duration`` reads as so many seconds, to the millisecond."""
    left, parts = round(seconds * 1000), []
    for unit in ("h", "m", "s", "ms"):
        count, left = divmod(left, round(_SECONDS[unit] * 1000))
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"


def parse_share(text: str) -> float:
    """A share from ``5%`` or ``0.05``, above 0 and at most 1; ValueError for anything else."""
    match = re.fullmatch(rf"({_NUMBER})\s*(%?)", text, re.ASCII)
    share = float(match[1]) / (100 if match[2] else 1) if match else math.nan
    if not 0 < share <= 1:
        raise ValueError(f"is not a share: {_quote(text)}; write it like 5% or 0.05, above 0 and at most 100%")
    return share


def check_url(text: str) -> str:
    """The address of a server as it is used: http or https, no key in it, no trailing ``/`` or ``/v1``; else ValueError."""
    if any(not character.isprintable() or character.isspace() for character in text):
        raise ValueError("has a space or a control character in it")
    if "://" not in text:
        raise ValueError("has no scheme: write http:// or https:// before it")
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError as exc:
        raise ValueError(f"is not a URL ({str(exc).lower()})") from None
    if parts.username is not None or parts.password is not None:
        raise ValueError("has a user name or password in it: put the key into a file and name it with api_key_file")
    if parts.scheme not in {"http", "https"}:
        raise ValueError(f"has the scheme {_quote(parts.scheme)}: only http and https can be probed")
    if not host:
        raise ValueError("names no host")
    if port == 0:
        raise ValueError("has port 0, at which nothing can be reached")
    if parts.query or parts.fragment or text.endswith(("?", "#")):
        raise ValueError("has a query or a fragment: give the server's address alone, like http://127.0.0.1:8000")
    return f"{parts.scheme}://{parts.netloc}{parts.path}".rstrip("/").removesuffix("/v1").rstrip("/")


def name_from_url(url: str) -> str:
    """``host:port`` of a URL, the port also where the scheme implies it."""
    parts = urlsplit(url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return f"{host}:{parts.port or (443 if parts.scheme == 'https' else 80)}"


def split_listen(listen: str) -> tuple[str, int]:
    """Host and port of ``127.0.0.1:9937``, ``[::1]:9937``, ``localhost:9937`` or ``:9937`` (every address)."""
    host, colon, port = listen.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    bare = host[1:-1] if bracketed else host
    if not colon or not re.fullmatch(r"\d{1,5}", port, re.ASCII) or (":" in bare and not bracketed):
        raise ValueError(f"is not host:port: {_quote(listen)}; write it like 127.0.0.1:9937 or [::1]:9937")
    if int(port) > 65535:
        raise ValueError(f"has a port out of range: {port} (0 to 65535)")
    if bracketed:
        ipaddress.IPv6Address(bare)
    elif not re.fullmatch(r"[\w.-]*", bare):
        raise ValueError(f"is not host:port: {_quote(listen)}; write it like 127.0.0.1:9937 or [::1]:9937")
    return bare, int(port)


def _check_listen(text: str) -> str:
    split_listen(text)
    return text


def _check_name(text: str) -> str:
    if not text.strip():
        raise ValueError("is empty")
    if not text.isprintable():
        raise ValueError("has a control character in it")
    if len(text) > MAX_NAME:
        raise ValueError(f"is longer than {MAX_NAME} characters")
    return text


def _check_file(path: Path) -> Path:
    if not path.exists():
        raise ValueError(f"there is no file {path}")
    if not path.is_file():
        raise ValueError(f"{path} is not a file")
    if not os.access(path, os.R_OK):
        raise ValueError(f"{path} can't be read: permission denied")
    return path


def _check_release(text: str) -> str:
    if not re.fullmatch(r"\d+\.\d+(\.\d+)?", text, re.ASCII):
        raise ValueError(f"is not a version: {_quote(text)}; write it like 7.0")
    return text


def _check_distinct(names: tuple[str, ...]) -> tuple[str, ...]:
    if not names:
        raise ValueError("is empty: name at least one")
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"names {_quote(name)} twice")
    return names


def _quote(text: str, most: int = 60) -> str:
    return '"' + (text if len(text) <= most else text[: most - 1] + "…").encode("unicode_escape").decode() + '"'


def _read(parse: Callable[[str], float]) -> BeforeValidator:
    """Text is parsed; a number comes from code, not from a file, and is taken as it is."""

    def read(value: object) -> object:
        return parse(value) if isinstance(value, str) else value

    return BeforeValidator(read)


def _at_least(least: float, text: str) -> AfterValidator:
    def check(value: float) -> float:
        if value < least:
            raise ValueError(f"is too short: at least {text}")
        return value

    return AfterValidator(check)


def _auto_is_none(value: object) -> object:
    return None if value == "auto" else value


Duration = Annotated[float, _read(parse_duration), _at_least(0.001, "1ms"), Field(allow_inf_nan=False)]
Interval = Annotated[float, _read(parse_duration), _at_least(1, "1s"), Field(allow_inf_nan=False)]
Share = Annotated[float, _read(parse_share), Field(gt=0, le=1)]
Speed = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Name = Annotated[str, AfterValidator(_check_name)]
Url = Annotated[str, AfterValidator(check_url)]
ReadableFile = Annotated[Path, AfterValidator(_check_file)]


# Settings ------------------------------------------------------------------------------------------------------------


class Section(BaseModel):
    """A part of the settings: frozen, and closed to keys that it doesn't know."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class Thresholds(Section):
    """Lower bounds of the tiers, tokens per second."""

    excellent: Speed
    good: Speed
    acceptable: Speed

    @model_validator(mode="after")
    def _in_order(self) -> "Thresholds":
        if not self.excellent > self.good > self.acceptable:
            found = f"{self.excellent:g}, {self.good:g}, {self.acceptable:g}"
            raise ValueError(f"thresholds out of order: excellent, good, acceptable must fall, but are {found}")
        return self


class Tls(Section):
    """How the certificate of a target is checked."""

    ca_file: ReadableFile | None = None
    insecure_skip_verify: bool = False


class Budget(Section):
    """What probing may cost a target. ``share`` is the part of the time in which a probe may run; 1 sets no limit."""

    share: Share = 1.0


def _default_name(data: dict[str, Any]) -> str:
    return name_from_url(data["url"]) if "url" in data else ""


class Target(Section):
    """One inference server to probe. ``model`` None is the first one served; ``tiers`` None are those of the profiles."""

    url: Url
    name: Name = Field(default_factory=_default_name)
    backend: Backend = "auto"
    model: Name | None = None
    modules: Annotated[tuple[Name, ...], AfterValidator(_check_distinct)] = ("default",)
    api_key_file: ReadableFile | None = None
    tls: Tls = Tls()
    hardware: Name = "auto"
    scenario: Name = "auto"
    tiers: Thresholds | None = None
    budget: Budget = Budget()


def _first_token_default(data: dict[str, Any]) -> float:
    return min(120.0, data.get("total", 180.0))


def _stalled_default(data: dict[str, Any]) -> float:
    return min(30.0, data.get("total", 180.0))


def _connect_default(data: dict[str, Any]) -> float:
    return min(5.0, data.get("total", 180.0))


class Timeouts(Section):
    """Limits of one probe, seconds. Those that are not given are never longer than a ``total`` that is."""

    total: Duration = 180.0
    connect: Duration = Field(default_factory=_connect_default)
    first_token: Duration = Field(default_factory=_first_token_default)
    stalled: Duration = Field(default_factory=_stalled_default)

    @model_validator(mode="after")
    def _agree(self) -> "Timeouts":
        for name in ("connect", "first_token", "stalled"):
            if getattr(self, name) > self.total:
                given, total = format_duration(getattr(self, name)), format_duration(self.total)
                raise ValueError(f"timeouts contradict: {name} ({given}) is longer than total ({total})")
        return self


class Module(Section):
    """What one kind of probe sends, how often, and how it behaves towards a server in use."""

    interval: Interval = 60.0
    max_tokens: int = Field(default=64, ge=1, le=4096)
    prompt_tokens: int = Field(default=64, ge=1, le=131072)
    concurrency: int = Field(default=1, ge=1, le=64)
    timeouts: Timeouts = Timeouts()
    when_busy: Literal["skip", "probe"] = "skip"
    max_skips: int = Field(default=30, ge=1, le=100_000)
    when_unloaded: Literal["skip", "load"] = "skip"


BUILT_IN_MODULES: Final[Mapping[str, Mapping[str, object]]] = {
    "default": {},
    "prefill": {"interval": 600.0, "max_tokens": 16, "prompt_tokens": 2048},
    "parallel": {"interval": 600.0, "concurrency": 4},
}


class Discovery(Section):
    """Whether servers are looked for on this machine and in its containers, and how often."""

    local: bool = True
    docker: bool = True
    interval: Interval = 60.0


class CacheFolder(Section):
    """A folder with models; ``kind`` is its layout."""

    name: Name
    kind: Literal["huggingface", "ollama", "llama_cpp", "lm_studio", "files"]
    path: Path


class Cache(Section):
    """Which model caches are scanned, and how often; ``paths`` None (``auto``) are those that this machine has."""

    interval: Interval = 900.0
    paths: Annotated[tuple[CacheFolder, ...] | None, BeforeValidator(_auto_is_none)] = None


class Host(Section):
    """Where the facts of the machine are read, and the oldest ROCm release that is supported."""

    sysfs: Path = Path("/sys")
    rocm: Path = Path("/opt/rocm")
    minimum_rocm: Annotated[str, AfterValidator(_check_release)] = "7.0"
    interval: Interval = 60.0


class Docker(Section):
    """The engine that is asked about containers; ``enabled`` None (``auto``) asks it where it can be reached."""

    host: Name = "unix:///var/run/docker.sock"
    enabled: Annotated[bool | None, BeforeValidator(_auto_is_none)] = None


class ProbeEndpoint(Section):
    """Patterns of addresses that ``/probe`` may reach besides the configured targets."""

    allow: tuple[Name, ...] = ()


class Settings(BaseSettings):
    """All that a user can decide. Made from arguments alone: the environment is read by ``load``, not here."""

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", env_prefix=PREFIX, env_nested_delimiter="__", hide_input_in_errors=True
    )

    listen: Annotated[str, AfterValidator(_check_listen)] = "127.0.0.1:9937"
    web_config_file: ReadableFile | None = None
    discovery: Discovery = Discovery()
    targets: tuple[Target, ...] = ()
    targets_files: tuple[Name, ...] = ()
    modules: dict[Name, Module] = Field(default_factory=dict, validate_default=True)
    cache: Cache = Cache()
    host: Host = Host()
    docker: Docker = Docker()
    probe_endpoint: ProbeEndpoint = ProbeEndpoint()
    profiles_file: ReadableFile | None = None

    @model_validator(mode="before")
    @classmethod
    def _keep_built_in_modules(cls, data: dict[str, Any]) -> dict[str, Any]:
        """The user's modules extend or override the built-in ones, key by key."""
        given = data.get("modules", {})
        return {**data, "modules": _merged(BUILT_IN_MODULES, given)} if isinstance(given, Mapping) else data

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - pydantic-settings passes all by name
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)


def _merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    both = {
        key: _merged(under[key], over[key])
        for key in under.keys() & over.keys()
        if isinstance(under[key], Mapping) and isinstance(over[key], Mapping)
    }
    return {**under, **over, **both}
