"""Where a server is, by its URL."""

from exporter.address import address_of


def test_all_names_of_this_machine_are_one_address() -> None:
    """localhost, its addresses, the address of all and a scheme's own port compare equal."""
    names = ("http://localhost", "http://127.0.0.1:80", "http://[::1]:80/v1", "http://LOCALHOST", "http://0.0.0.0/x")
    assert {address_of(name) for name in names} == {("127.0.0.1", 80)}
    assert address_of("https://example.org") == ("example.org", 443)
    assert address_of("http://example.org:8000/v1") != address_of("http://localhost:8000/v1")
