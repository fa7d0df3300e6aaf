"""The shape of the settings and of the profiles: frozen models, closed to keys that they don't know."""

import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from exporter.address import DEFAULT_LISTEN
from exporter.backends import CONFIGURABLE
from exporter.settings.pattern import canonical_host, parse_allowed
from exporter.settings.values import (
    SECRET_HEADERS,
    Amount,
    BcryptHash,
    Duration,
    Gpus,
    Interval,
    Keep,
    KeyFile,
    Listen,
    Name,
    PathPattern,
    ReadableFile,
    Release,
    Share,
    Url,
    UserName,
    auto_or_bool,
    auto_or_list,
    auto_or_text,
    check_distinct,
    check_header,
    check_header_value,
    check_pattern,
    format_duration,
    json_value,
    name_from_url,
    option_value,
)

PREFIX: Final = "LLM_PROBE_"

CacheKind = Literal["huggingface", "ollama", "llama_cpp", "lm_studio", "files"]
"""The layouts of ``exporter.cache`` that may be configured; a test holds the two equal."""

if TYPE_CHECKING:
    BackendChoice = str
else:
    # pydantic takes it, and its errors name the choices; a type checker has no use for what is known at run time.
    BackendChoice = Literal[("auto", *CONFIGURABLE)]


class Section(BaseModel):
    """A part of the settings: frozen, and closed to keys that it doesn't know."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, defer_build=True)


class Thresholds(Section):
    """Lower bounds of the tiers, tokens per second."""

    excellent: Amount
    good: Amount
    acceptable: Amount

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

    share: Share = 0.1


def _default_name(data: dict[str, Any]) -> str:
    return name_from_url(data["url"]) if "url" in data else ""


OWN_OPTIONS: Final = frozenset({"num_predict", "temperature", "seed"})


class Target(Section):
    """One inference server to probe. ``model`` None is the one that is served; ``tiers`` None are those of the profiles.

    ``gpu`` names the GPU that serves, by PCI address or render node, several with commas. ``options`` are the runner options of
    an Ollama's clients, which a probe then repeats. ``server_metrics`` reads the
    ``/metrics`` of llama-server at each status check: each read resets the rates that another reader gets there. A server
    whose container or process is younger than ``start_window`` (seconds) is starting, not down.
    """

    url: Url
    name: Name = Field(default_factory=_default_name)
    backend: BackendChoice = "auto"
    model: Name | None = None
    modules: Annotated[tuple[Name, ...], AfterValidator(check_distinct)] = ("default", "canary")
    api_key_file: KeyFile | None = None
    tls: Tls = Tls()
    hardware: Name = "auto"
    scenario: Name = "auto"
    gpu: Gpus = "auto"
    tiers: Thresholds | None = None
    start_window: Duration = 1200.0
    budget: Budget = Budget()
    options: dict[Name, Annotated[int | float | bool | str, BeforeValidator(option_value)]] = Field(
        default_factory=dict
    )
    server_metrics: bool = False

    @model_validator(mode="after")
    def _options_are_of_a_runner(self) -> "Target":
        if own := sorted(OWN_OPTIONS & self.options.keys()):
            raise ValueError(f"options sets {', '.join(own)}, which the exporter sets for each probe")
        return self


def _within_total(seconds: float) -> Callable[[dict[str, Any]], float]:
    return lambda data: min(seconds, float(data.get("total", seconds)))


class Timeouts(Section):
    """Limits of one probe, seconds. Those that are not given are never longer than a ``total`` that is."""

    total: Duration = 180.0
    connect: Duration = Field(default_factory=_within_total(5.0))
    first_token: Duration = Field(default_factory=_within_total(120.0))
    stalled: Duration = Field(default_factory=_within_total(30.0))

    @model_validator(mode="after")
    def _agree(self) -> "Timeouts":
        for name in ("connect", "first_token", "stalled"):
            if getattr(self, name) > self.total:
                given, total = format_duration(getattr(self, name)), format_duration(self.total)
                raise ValueError(f"timeouts contradict: {name} ({given}) is longer than total ({total})")
        return self


OWN_FIELDS: Final = frozenset(
    "model messages prompt stream stream_options max_tokens max_completion_tokens min_tokens n_predict n options".split()
)

HeaderName = Annotated[str, AfterValidator(check_header)]
JsonValue = Annotated[Any, BeforeValidator(json_value)]
QuestionText = Annotated[str, Field(min_length=1, max_length=65_536)]


class Module(Section):
    """What one kind of probe sends, how often, and how it behaves towards a server in use.

    ``when_idle`` None (``auto``) pauses on servers that unload models which nobody uses, and probes on others. ``request``
    are fields for the body of its requests, ``headers`` headers for them; a header that holds a secret is read from a file
    that ``header_files`` names.
    ``prompt`` is a question of the user's own, sent as it is; ``expect`` a regular expression that the answer has to match.
    ``depth`` makes the module a canary: a fact is asked for in a short prompt, and in one of that many tokens.
    """

    interval: Interval = 60.0
    max_tokens: int = Field(default=64, ge=1, le=4096)
    prompt_tokens: int = Field(default=64, ge=1, le=131072)
    concurrency: int = Field(default=1, ge=1, le=64)
    timeouts: Timeouts = Timeouts()
    when_busy: Literal["skip", "share", "probe"] = "skip"
    max_skips: int = Field(default=30, ge=1, le=100_000)
    when_unloaded: Literal["skip", "load"] = "skip"
    when_idle: Annotated[Literal["pause", "probe"] | None, BeforeValidator(auto_or_text)] = None
    prompt: QuestionText | None = None
    expect: Annotated[str, Field(min_length=1, max_length=1024), AfterValidator(check_pattern)] | None = None
    depth: int | None = Field(default=None, ge=600, le=131072)
    request: dict[Name, JsonValue] = Field(default_factory=dict)
    headers: dict[HeaderName, Annotated[str, AfterValidator(check_header_value)]] = Field(default_factory=dict)
    header_files: dict[HeaderName, KeyFile] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _request_is_not_the_probes_own(self) -> "Module":
        if own := sorted(OWN_FIELDS & self.request.keys()):
            raise ValueError(f"request sets {', '.join(own)}, which the exporter sets for each probe")
        if secret := sorted(name for name in self.headers if SECRET_HEADERS.search(name)):
            raise ValueError(
                f"headers sets {', '.join(secret)}, which holds a secret: put it into a file and name that in header_files"
            )
        if twice := {each.lower() for each in self.headers} & {each.lower() for each in self.header_files}:
            raise ValueError(f"headers and header_files both set {', '.join(sorted(twice))}")
        return self

    @model_validator(mode="after")
    def _canary_asks_its_own_question(self) -> "Module":
        given = [name for name in ("prompt", "expect") if getattr(self, name) is not None]
        given += ["concurrency"] if self.concurrency > 1 else []
        if self.depth is not None and given:
            raise ValueError(f"depth contradicts {', '.join(given)}: a canary asks one question of its own at a time")
        return self


BUILT_IN_MODULES: Final[Mapping[str, Mapping[str, object]]] = {
    "default": {},
    "prefill": {"interval": 600.0, "max_tokens": 16, "prompt_tokens": 2048},
    "parallel": {"interval": 600.0, "concurrency": 4},
    "canary": {"interval": 600.0, "max_tokens": 512, "depth": 2048, "timeouts": {"total": 300.0}},
}


class Discovery(Section):
    """Whether servers are looked for on this machine and in its containers, and how often."""

    local: bool = True
    docker: bool = True
    interval: Interval = 60.0


class CachePath(Section):
    """A folder with models; ``kind`` is its layout."""

    name: Name
    kind: CacheKind
    path: Path


class Cache(Section):
    """Which model caches are scanned, and how often; ``paths`` None (``auto``) are those that this machine has."""

    interval: Interval = 900.0
    paths: Annotated[tuple[CachePath, ...] | None, BeforeValidator(auto_or_list)] = None


class Host(Section):
    """Where the facts of the machine are read, and the oldest ROCm release that is supported (``load`` fills it in)."""

    sysfs: Path = Path("/sys")
    proc: Path = Path("/proc")
    rocm: Path = Path("/opt/rocm")
    minimum_rocm: Release | None = None
    interval: Interval = 60.0


class Docker(Section):
    """The engine that is asked about containers; ``enabled`` None (``auto``) asks it if it can be reached.

    ``host`` empty is ``DOCKER_HOST``, or the socket of Docker or Podman that is there.
    """

    host: Name = ""
    enabled: Annotated[bool | None, BeforeValidator(auto_or_bool)] = None


class HistoryFile(Section):
    """Where changes and speeds are kept over restarts (``auto``, ``none`` or a path), and for how long (seconds)."""

    path: Path | Literal["auto", "none"] = "auto"
    keep: Keep = 90 * 86400.0


def _check_host(text: str) -> str:
    """A name in its one form. No wildcard: one would allow a name that somebody else owns."""
    if "*" in text or ":" in text or "/" in text:
        raise ValueError("must be a name alone, without a scheme, a port or a wildcard, like gpu.example.org")
    try:
        return canonical_host(text)
    except ValueError as exc:
        raise ValueError(str(exc).replace("has a host", "is a host")) from None


def _check_allowed(text: str) -> str:
    parse_allowed(text)
    return text


class ProbeEndpoint(Section):
    """Patterns of addresses that ``/probe`` may reach besides the configured targets."""

    allow: tuple[Annotated[Name, AfterValidator(_check_allowed)], ...] = ()


class Settings(BaseSettings):
    """All that a user can decide. Made from arguments alone: the environment is read by ``load``, not here."""

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", env_prefix=PREFIX, env_nested_delimiter="__", hide_input_in_errors=True
    )

    listen: Listen = DEFAULT_LISTEN
    allowed_hosts: tuple[Annotated[str, AfterValidator(_check_host)], ...] = ()
    web_config_file: ReadableFile | None = None
    discovery: Discovery = Discovery()
    targets: tuple[Target, ...] = ()
    targets_files: tuple[PathPattern, ...] = ()
    modules: dict[Name, Module] = Field(default_factory=dict, validate_default=True)
    cache: Cache = Cache()
    host: Host = Host()
    docker: Docker = Docker()
    history: HistoryFile = HistoryFile()
    probe_endpoint: ProbeEndpoint = ProbeEndpoint()
    profiles_file: ReadableFile | None = None

    @model_validator(mode="before")
    @classmethod
    def _keep_built_in_modules(cls, data: dict[str, Any]) -> dict[str, Any]:
        """The user's modules extend or override the built-in ones, key by key."""
        given = data.get("modules", {})
        return {**data, "modules": merged(BUILT_IN_MODULES, given)} if isinstance(given, Mapping) else data

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


def merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    both = {
        key: merged(under[key], over[key])
        for key in under.keys() & over.keys()
        if isinstance(under[key], Mapping) and isinstance(over[key], Mapping)
    }
    return {**under, **over, **both}


class Band(Section):
    """A range of speeds or of parameters; either end may be open."""

    min: Amount | None = None
    max: Amount | None = None

    @model_validator(mode="after")
    def _in_order(self) -> "Band":
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min ({self.min:g}) is more than max ({self.max:g})")
        return self


class Scenario(Section):
    """A way to run a model, the conditions by which it is recognised, and the speed that it should reach.

    ``hardware`` is the id of the only hardware that ``expected`` is about; None for all.
    """

    backend: BackendChoice
    aiter: bool | None = None
    quantization: Name | None = None
    kv_cache: Name | None = None
    hardware: Name | None = None
    expected: Band


class Hardware(Section):
    """A class of GPU: bandwidth in bytes/s, memory in bytes, half-precision operations/s, and the speed to expect."""

    name: Name
    gfx_target: Name | None = None
    compute_units: tuple[int, ...] = ()
    memory_bandwidth: Amount | None = None
    memory: Amount | None = None
    fp16_flops: Amount | None = None
    expected: Band = Band()
    model_class: Name | None = None


class Criterion(Section):
    """A verdict on a change, reached by the candidate's tokens per second or by its ratio to the baseline."""

    tokens_per_second: Amount
    ratio: Amount


class SuccessCriteria(Section):
    """What makes a change a success; ``baseline`` is the speed in tokens per second that its ratios were set against."""

    baseline: Amount
    minimum: Criterion
    good: Criterion
    excellent: Criterion

    @model_validator(mode="after")
    def _in_order(self) -> "SuccessCriteria":
        steps = (self.minimum, self.good, self.excellent)
        for lower, upper in itertools.pairwise(steps):
            if not (lower.tokens_per_second < upper.tokens_per_second and lower.ratio < upper.ratio):
                raise ValueError("criteria out of order: minimum, good, excellent must rise, in speed and in ratio")
        return self


class Rocm(Section):
    """The oldest release of ROCm that is supported."""

    minimum: Release


class ShareBand(Section):
    """The shares of the ceiling that a setup should reach."""

    min: Share
    max: Share

    @model_validator(mode="after")
    def _in_order(self) -> "ShareBand":
        if self.min > self.max:
            raise ValueError(f"min ({self.min:g}) is more than max ({self.max:g})")
        return self


class CeilingShares(Section):
    """What to expect of the ceiling, and the share from which on the memory is what limits a speed.

    ``overhead`` is what a token may cost beyond its reads (seconds): the lower bound allows for it.
    """

    dense: ShareBand
    mixture: ShareBand
    at_ceiling: Share
    overhead: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.0


class Mixture(Section):
    """A mixture of experts: its parameters, and those that one token uses."""

    total: Amount
    active: Amount
    source: str

    @model_validator(mode="after")
    def _in_order(self) -> "Mixture":
        if self.active > self.total:
            raise ValueError(f"active ({self.active:g}) is more than total ({self.total:g})")
        return self


class Dense(Section):
    """A family of dense models; ``sizes`` in 10⁹ parameters, empty for all."""

    sizes: tuple[Amount, ...] = ()
    source: str


class Profiles(Section):
    """The figures that speeds are judged by: ``profiles.yaml``, with a user's file over it. Scenarios: first match wins."""

    tiers: Thresholds
    scenarios: dict[Name, Scenario]
    scenario_parameters: Band
    success_criteria: SuccessCriteria
    hardware: dict[Name, Hardware]
    rocm: Rocm
    ceiling_shares: CeilingShares
    mixture_of_experts: dict[Name, Mixture]
    dense: dict[Name, Dense]


class WebTls(Section):
    """Certificate and key of the exporter's own endpoints, and whether clients must show certificates of theirs."""

    cert_file: ReadableFile
    key_file: KeyFile
    client_auth_type: Literal[
        "NoClientCert", "RequestClientCert", "VerifyClientCertIfGiven", "RequireAndVerifyClientCert"
    ] = "NoClientCert"
    client_ca_file: ReadableFile | None = None
    min_version: Literal["TLS12", "TLS13"] = "TLS12"
    max_version: Literal["TLS12", "TLS13"] = "TLS13"

    @model_validator(mode="after")
    def _agree(self) -> "WebTls":
        if self.client_ca_file is None and "Verify" in self.client_auth_type:
            raise ValueError(f"client_auth_type {self.client_auth_type} needs client_ca_file")
        if self.min_version > self.max_version:
            raise ValueError("min_version is above max_version")
        return self


class WebConfig(Section):
    """TLS and basic auth in the format that Prometheus' exporters share; passwords are bcrypt hashes."""

    tls_server_config: WebTls | None = None
    basic_auth_users: dict[UserName, BcryptHash] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _asks_for_something(self) -> "WebConfig":
        if not self.basic_auth_users and self.tls_server_config is None:
            raise ValueError(
                "protects nothing: it has neither basic_auth_users nor tls_server_config. Was it emptied or truncated?"
            )
        return self
