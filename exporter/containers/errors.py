"""Why a container engine could not be read, for code and for a person."""

import re
from collections.abc import Iterator
from typing import Final


class EngineError(Exception):
    """The engine answered, but not with what was asked for; the text is for a person."""


class NotFoundError(EngineError):
    """What was asked for is not there (any more)."""


class RefusedError(EngineError):
    """A proxy refuses this call."""


class AddressError(Exception):
    """The SDK can't use the engine's address, or the TLS files that go with it; the text names the SDK's exception."""


FAILURES: Final = (OSError, AddressError, EngineError)
"""All that a reading of an engine raises; the transport's own errors are OSErrors."""


def shown(host: str) -> str:
    """An engine's address without what may be a secret in it."""
    return re.sub(r"//[^/]*@", "//", host.partition("?")[0])


_CAUSES: Final[tuple[tuple[type[OSError], str], ...]] = (
    (FileNotFoundError, "no container engine at {host}: there is no such socket"),
    (PermissionError, "no permission to open {host}: add the exporter's user to its group, or use a read-only proxy"),
    (ConnectionRefusedError, "nothing listens at {host}: the container engine is stopped"),
    (TimeoutError, "the container engine at {host} did not answer within {seconds:g} s"),
)


def explain(error: BaseException, host: str, timeout_seconds: float) -> str:
    """One sentence on why the engine could not be read, with what to do about it. Never the text of an answer."""
    host = shown(host)
    if isinstance(error, EngineError):
        return f"the container engine at {host}: {error}"
    causes = list(_chain(error))
    for kind, sentence in _CAUSES:
        if any(isinstance(cause, kind) for cause in causes):
            return sentence.format(host=host, seconds=timeout_seconds)
    if isinstance(error, AddressError):
        return f"a container engine can't be reached by the address {host} ({error})"
    return f"the container engine at {host} could not be read ({type(causes[-1]).__name__})"


def _chain(error: BaseException) -> Iterator[BaseException]:
    following: BaseException | None = error
    while following is not None:
        yield following
        following = following.__cause__ or following.__context__
