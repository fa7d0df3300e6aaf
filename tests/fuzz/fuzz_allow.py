"""Fuzzing of the patterns of ``probe_endpoint.allow`` (``make fuzz``).

Any text is a pattern, or refused in words that don't repeat it. A pattern of addresses matches no name, and a pattern of names
no address. One without a wildcard matches nothing but its own host, and one without a port the scheme's own alone.
"""

from collections.abc import Iterator

from tests.fuzz import engine

with engine.instrumented():
    from exporter.settings import matches, parse_allowed, probe_address_of

NAMES = ("http://evil.example:8000", "https://10.0.0.evil.example", "http://gpu.lan:8000", "http://localhost:11434/x")
ADDRESSES = ("http://10.0.0.7:8000", "https://192.168.1.1", "http://127.0.0.1:8000", "http://[fd00::1]:8000/x")
WANTED = tuple(map(probe_address_of, (*NAMES, *ADDRESSES)))


def refusal_of(text: str) -> str | None:
    """Why a text is no pattern."""
    try:
        parse_allowed(text)
    except ValueError as error:
        return str(error)
    return None


def one_input(data: bytes) -> None:
    """One run of the fuzzer."""
    text = data.decode("utf-8", "replace")
    refusal = refusal_of(text)
    if refusal is not None:
        assert refusal.isprintable()
        assert len(text) < 40 or text not in refusal
        return
    pattern = parse_allowed(text)
    for wanted in WANTED:
        if not matches(wanted, pattern):
            continue
        assert not pattern.host.strip("*") or (wanted.ip is not None) == pattern.of_addresses, (text, wanted)
        assert not pattern.literal or wanted.host == pattern.host, (text, wanted)
        assert pattern.scheme in {None, wanted.scheme}, (text, wanted)
        assert not pattern.ports_own or wanted.port == {"http": 80, "https": 443}[wanted.scheme], (text, wanted)


def seeds() -> Iterator[bytes]:
    """Patterns as people write them, and those of attempts."""
    for text in (
        "http://10.0.0.*:8000", "10.0.0.0/24:8000", "*.lan:8000", "[fd00::]/8:*", "*", "*://*:*/*", "http://gpu.lan/v1", "[::ffff:10.0.0.7]:8000",
        "https://10.0.0.7", "10.0.0.*", "???.lan", "0x7f.1", "http://*.*.*.*:8000", "evil.example#10.0.0.7", "http://a@b:8000",
    ):  # fmt: skip
        yield text.encode()


if __name__ == "__main__":
    engine.run("allow", one_input, seeds())
