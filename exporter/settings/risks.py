"""What is allowed and yet unsafe in settings that are valid: said at the start, at a reload and by ``check-config``."""

import stat
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from exporter.address import is_loopback
from exporter.settings.model import Settings, Target, WebConfig
from exporter.settings.pattern import parse_allowed


def risks_of(settings: Settings, web: WebConfig | None = None) -> tuple[str, ...]:
    """A sentence for each thing that makes a key or the network easier to reach than it need be; reads modes of files only."""
    found = [risk for target in settings.targets for risk in risks_of_target(settings, target)]
    if web is not None and web.tls_server_config is not None and _others_can_read(web.tls_server_config.key_file):
        path = web.tls_server_config.key_file
        found.append(f"web_config_file: other users can read key_file {path}: chmod o-r {path}")
    for pattern in map(parse_allowed, settings.probe_endpoint.allow):
        if pattern.host.strip("*?.") and (pattern.network is None or pattern.network.prefixlen):
            continue
        found.append(
            f"probe_endpoint.allow has {pattern.host} for the host: anyone who can reach /probe can make this machine connect to any address."
            " Name the addresses that are meant"
        )
    return tuple(dict.fromkeys(found))


def risks_of_target(settings: Settings, target: Target) -> Iterator[str]:
    """What makes the keys of one target easier to reach than they need be."""
    keys = [] if target.api_key_file is None else [target.api_key_file]
    modules = [settings.modules[name] for name in target.modules if name in settings.modules]
    keys += [each for module in modules for each in module.header_files.values()]
    for path in keys:
        if _others_can_read(path):
            yield f"target {target.name}: other users can read the key file {path}: chmod o-r {path}"
    if not keys:
        return
    parts = urlsplit(target.url)
    if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
        yield (
            f"target {target.name}: its key is sent over plain HTTP, where others on the network can read it: use https,"
            " or reach the server through a tunnel"
        )
    if parts.scheme == "https" and target.tls.insecure_skip_verify:
        yield (
            f"target {target.name}: its key is sent to a server whose certificate is not checked (insecure_skip_verify):"
            " name its CA with tls.ca_file"
        )


def _others_can_read(path: Path) -> bool:
    try:
        return bool(path.stat().st_mode & stat.S_IROTH)
    except OSError:
        return False
