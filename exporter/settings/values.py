"""Text into values: durations, shares, addresses, names. Each says in a ValueError what is wrong with a text."""

import ipaddress
import math
import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Final, NewType
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator, BeforeValidator, Field

from exporter.address import DEFAULT_LISTEN

MAX_NAME: Final = 128
MAX_KEY_BYTES: Final = 64 * 1024
MAX_SECONDS: Final = 30 * 86400.0
MAX_KEEP_SECONDS: Final = 3650 * 86400.0


def quote(text: str, most: int = 60) -> str:
    """A text as it may be shown: in quotes, cut, control characters escaped, without the user and password of a URL."""
    text = re.sub(r"://[^/@\s]*@", "://…@", text)
    text = text if len(text) <= most else text[: most - 1] + "…"
    return '"' + "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text) + '"'


def kind_of(value: object) -> str:
    """A value as an error shows it: by its kind alone, since a key or a password may stand in the wrong place."""
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    return "nothing" if value is None else "text"


_NUMBER = r"\d+(?:\.\d+)?"
_DURATION = re.compile("".join(f"(?:(?P<{unit}>{_NUMBER}){unit})?" for unit in ("d", "h", "m", "s", "ms")), re.ASCII)
_SECONDS: Final = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}


def parse_duration(text: str, most: float = MAX_SECONDS) -> float:
    """Seconds of ``500ms``, ``60s``, ``5m``, ``1h30m``, ``2d``; ValueError for anything else, and above ``most`` seconds."""
    if re.fullmatch(_NUMBER, text, re.ASCII):
        raise ValueError("has no unit: write it like 500ms, 60s, 5m or 1h30m")
    match = _DURATION.fullmatch(text)
    if not text or match is None:
        raise ValueError("is not a duration: write it like 500ms, 60s, 5m or 1h30m")
    seconds = math.fsum(float(number) * _SECONDS[unit] for unit, number in match.groupdict().items() if number)
    if seconds > most:
        raise ValueError(f"is longer than {most / 86400:.0f} days")
    return seconds


def format_duration(seconds: float) -> str:
    """The shortest text that ``parse_duration`` reads as that many seconds, to the millisecond."""
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
        raise ValueError("is not a share: write it like 5% or 0.05, above 0 and at most 100%")
    return share


def check_url(text: str) -> str:
    """The address of a server as it is used: http or https, no key in it, no trailing ``/`` or ``/v1``; else ValueError.

    No message repeats the text, in which a password may stand.
    """
    if not text.isprintable() or " " in text:
        raise ValueError("has a space or a control character in it")
    scheme, separator, rest = text.partition("://")
    if not separator:
        raise ValueError("has no scheme: write http:// or https:// before it")
    if "@" in rest.partition("/")[0]:
        raise ValueError("has a user name or password in it: put the key into a file and name that with api_key_file")
    if scheme not in {"http", "https"}:
        raise ValueError("has a scheme that can't be probed: write http:// or https://")
    if "?" in rest or "#" in rest:
        raise ValueError("has a query or a fragment: give the server's address alone, like http://127.0.0.1:8000")
    try:
        parts = urlsplit(text)
    except ValueError:
        raise ValueError("is not a URL") from None
    if not parts.hostname:
        raise ValueError("names no host")
    _check_port(parts)
    if (found := _REQUEST_PATHS.search(parts.path.rstrip("/"))) is not None:
        raise ValueError(f"ends in {found[0]}, the path of a request: give the server's address alone, without it")
    host, _, path = rest.partition("/")
    return f"{scheme}://{host}{_END_OF_PATH.sub('', f'/{path}')}"


_END_OF_PATH: Final = re.compile(r"(?:/v1|/)+$")
_REQUEST_PATHS: Final = re.compile(
    r"/(?:v1/(?:chat/completions|completions|responses|messages|embeddings|models)|api/(?:chat|generate|tags|ps|show|version)"
    r"|chat/completions|metrics|health|props|slots)$"
)


def prompt_url(text: str) -> str:
    """An address as people type it at a prompt, with its scheme: ``localhost:8000``, ``[::1]:8000``, ``:8000`` and ``8000``
    are http. Anything else stays as it is.
    """
    if re.fullmatch(r":?\d{1,5}", text, re.ASCII):
        return f"http://127.0.0.1:{text.removeprefix(':')}"
    if re.fullmatch(r"(?:\[[0-9A-Fa-f:.%]+\]|[A-Za-z0-9._-]+):\d{1,5}(?:/.*)?", text, re.ASCII):
        return f"http://{text}"
    return text


def _check_port(parts: SplitResult) -> None:
    try:
        port = parts.port
    except ValueError:
        port = 0
    if port == 0:
        raise ValueError("has a port out of range: it must be a number from 1 to 65535")


def name_from_url(url: str) -> str:
    """``host:port`` of a URL, the port also if the scheme implies it."""
    parts = urlsplit(url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return f"{host}:{parts.port or (443 if parts.scheme == 'https' else 80)}"


def split_listen(listen: str) -> tuple[str, int]:
    """Host and port of ``127.0.0.1:9937``, ``[::1]:9937``, ``localhost:9937`` or ``:9937`` (every address).

    Port 0 lets the system choose one. ValueError for anything else.
    """
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]*)):(\d{1,9})", listen)
    if match is None or (match[1] and not _is_ipv6(match[1])):
        raise ValueError(f"is not host:port: write it like {DEFAULT_LISTEN} or [::1]:9937")
    if int(match[3]) > 65535:
        raise ValueError("has a port out of range: the highest is 65535")
    return match[1] or match[2], int(match[3])


def _is_ipv6(host: str) -> bool:
    try:
        ipaddress.IPv6Address(host)
    except ValueError:
        return False
    return True


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


def _check_user(name: str) -> str:
    if ":" in name:
        raise ValueError("has a colon in it: basic auth ends the user name at the first colon, so nobody could log in")
    return name


def _check_file(path: Path) -> Path:
    if (wrong := _why_unreadable(path)) is not None:
        raise ValueError(f"{wrong}: {quote(str(path), 200)}")
    return path


def _check_key_file(path: Path) -> Path:
    """The message doesn't repeat the path: it may be the key itself, written in the wrong place."""
    wrong = _why_unreadable(path)
    if wrong is None and path.stat().st_size > MAX_KEY_BYTES:
        wrong = f"is larger than {MAX_KEY_BYTES >> 10} KiB"
    if wrong is not None:
        raise ValueError(f"{wrong}; this must be the path of a file that holds the key")
    return path


def _why_unreadable(path: Path) -> str | None:
    try:
        exists = path.exists()
    except OSError:  # a name that is too long
        exists = False
    if not exists:
        return "there is no such file"
    if not path.is_file():
        return "is not a regular file"
    return None if os.access(path, os.R_OK) else "can't be read, permission denied"


def _check_release(text: str) -> str:
    if not re.fullmatch(r"\d+\.\d+(\.\d+)?", text, re.ASCII):
        raise ValueError("is not a version: write it like 7.0")
    return text


def _check_bcrypt(text: str) -> str:
    if not re.fullmatch(r"\$2[aby]\$\d\d\$[./A-Za-z0-9]{53}", text, re.ASCII):
        raise ValueError("is not a bcrypt hash: make one with `htpasswd -nBC 10 USER`")
    if not 4 <= int(text[4:6]) <= 16:
        raise ValueError(
            f"has the cost {text[4:6]}: from 04 to 16 are possible, 10 is usual, 16 takes seconds to check"
        )
    return text


def check_distinct(names: tuple[str, ...]) -> tuple[str, ...]:
    """At least one name, and none twice."""
    if not names:
        raise ValueError("is empty: name at least one")
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"names {quote(name)} twice")
    return names


def _read(parse: Callable[[str], float], example: str) -> BeforeValidator:
    """Text is parsed; a number comes from code, not from a file, and is taken as it is."""

    def read(value: object) -> object:
        if isinstance(value, str):
            return parse(value)
        if isinstance(value, int | float):
            return value
        raise ValueError(f"must be written like {example}, not {kind_of(value)}")

    return BeforeValidator(read)


def _at_least(least: float, text: str) -> AfterValidator:
    def check(value: float) -> float:
        if value < least:
            raise ValueError(f"is too short: at least {text}")
        return value

    return AfterValidator(check)


_GPU: Final = re.compile(
    r"(?:[0-9a-f]{4}:)?[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]|(?:/dev/dri/)?renderD\d{1,4}|/dev/dri/by-path/pci-[0-9a-f:.]+-render",
    re.IGNORECASE,
)


def _check_gpus(text: str) -> str:
    """``auto``, or PCI addresses and render nodes with commas."""
    names = [name.strip() for name in text.split(",")]
    if text != "auto" and not all(_GPU.fullmatch(name) for name in names):
        raise ValueError(
            "must be auto, a PCI address (0000:c1:00.0) or a render node (renderD128), several with commas"
        )
    return ",".join(names)


def auto_or_bool(value: object) -> object:
    """``auto`` in a file is None in the models; anything else must be true or false."""
    if value == "auto":
        return None
    if isinstance(value, str) and value.lower() in {"true", "false"}:
        return value.lower() == "true"
    if value is None or isinstance(value, bool):
        return value
    raise ValueError(f"must be auto, true or false, not {kind_of(value)}")


def check_pattern(text: str) -> str:
    """A regular expression as it is; ValueError if it is none."""
    try:
        re.compile(text)
    except re.error as exc:
        raise ValueError(f"is not a regular expression: character {(exc.pos or 0) + 1} is wrong") from None
    return text


def auto_or_text(value: object) -> object:
    """``auto`` in a file is None in the models; anything else stays what it is."""
    return None if value == "auto" else value


HEADER_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", re.ASCII)
SECRET_HEADERS: Final = re.compile(r"auth|cookie|key|token|secret|password|credential", re.IGNORECASE)
OWN_HEADERS: Final = frozenset(
    {
        "accept-encoding",
        "connection",
        "content-length",
        "content-type",
        "expect",
        "host",
        "te",
        "transfer-encoding",
        "upgrade",
    }
)


def check_header(name: str) -> str:
    """A header's name that a module may set."""
    if not HEADER_NAME.fullmatch(name):
        raise ValueError("is not the name of a header")
    if name.lower() in OWN_HEADERS:
        raise ValueError(f"is a header that the exporter sets itself: {name}")
    return name


def check_header_value(text: str) -> str:
    """A header's value: one line of ASCII. The message does not repeat it."""
    if not text.isascii() or not text.isprintable():
        raise ValueError("has a character in it that a header can't hold")
    return text


def json_value(value: object) -> object:
    """What a part of a request is in JSON: scalars as ``option_value`` reads them, in lists and mappings."""
    if isinstance(value, dict):
        return {str(key): json_value(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [json_value(each) for each in value]
    value = option_value(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"has a number in it that JSON can't hold: {value}")
    return value


def option_value(value: object) -> object:
    """A number, a truth value or a text, whichever a scalar of a file is written as."""
    if not isinstance(value, str):
        return value
    if value.lower() in {"true", "false"}:
        return value.lower() == "true"
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    return value


def auto_or_list(value: object) -> object:
    """``auto`` in a file is None in the models; anything else must be a list."""
    if value == "auto":
        return None
    if value is None or isinstance(value, list | tuple):
        return value
    raise ValueError(f"must be auto or a list, not {kind_of(value)}")


Duration = Annotated[float, _read(parse_duration, "60s"), _at_least(0.001, "1ms"), Field(allow_inf_nan=False)]
Interval = Annotated[float, _read(parse_duration, "60s"), _at_least(1, "1s"), Field(allow_inf_nan=False)]
Keep = Annotated[
    float,
    _read(partial(parse_duration, most=MAX_KEEP_SECONDS), "90d"),
    _at_least(3600, "1h"),
    Field(allow_inf_nan=False),
]
Share = Annotated[float, _read(parse_share, "5%"), Field(gt=0, le=1)]
Amount = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Release = Annotated[str, AfterValidator(_check_release)]
BcryptHash = Annotated[str, AfterValidator(_check_bcrypt)]
Name = Annotated[str, AfterValidator(_check_name)]
UserName = Annotated[str, AfterValidator(_check_name), AfterValidator(_check_user)]
Gpus = Annotated[str, AfterValidator(_check_gpus)]
Url = Annotated[str, AfterValidator(check_url)]
Listen = Annotated[str, AfterValidator(_check_listen)]
PathPattern = NewType("PathPattern", str)
"""A path in which ``*``, ``?`` and ``[…]`` stand for names."""
ReadableFile = Annotated[Path, AfterValidator(_check_file)]
KeyFile = Annotated[Path, AfterValidator(_check_key_file)]
