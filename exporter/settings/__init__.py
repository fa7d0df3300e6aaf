"""What the user decided: a YAML file, the environment over it, keys in files of their own; frozen, every typo an error.

This is the only door to YAML and pydantic. ``load`` and ``load_profiles`` return what is right as a whole, or raise
``SettingsError`` with everything that is wrong, each with its path (``targets[1].url``) and its line.
"""

from exporter.settings.errors import Problem, SettingsError
from exporter.settings.load import load, load_profiles, load_web_config, make_target
from exporter.settings.model import (
    BUILT_IN_MODULES,
    BackendChoice,
    Band,
    Budget,
    Cache,
    CacheKind,
    CachePath,
    Criterion,
    Discovery,
    Docker,
    Hardware,
    Host,
    Module,
    ProbeEndpoint,
    Profiles,
    Scenario,
    Settings,
    SuccessCriteria,
    Target,
    Thresholds,
    Timeouts,
    Tls,
    WebConfig,
    WebTls,
)
from exporter.settings.values import check_url, format_duration, name_from_url, parse_duration, split_listen

__all__ = [
    "BUILT_IN_MODULES",
    "BackendChoice",
    "Band",
    "Budget",
    "Cache",
    "CacheKind",
    "CachePath",
    "Criterion",
    "Discovery",
    "Docker",
    "Hardware",
    "Host",
    "Module",
    "ProbeEndpoint",
    "Problem",
    "Profiles",
    "Scenario",
    "Settings",
    "SettingsError",
    "SuccessCriteria",
    "Target",
    "Thresholds",
    "Timeouts",
    "Tls",
    "WebConfig",
    "WebTls",
    "check_url",
    "format_duration",
    "load",
    "load_profiles",
    "load_web_config",
    "make_target",
    "name_from_url",
    "parse_duration",
    "split_listen",
]
