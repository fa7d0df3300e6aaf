"""What the service tells systemd: one datagram, or nothing at all."""

import os
import socket
from pathlib import Path

import pytest

from exporter import systemd


@pytest.mark.parametrize("kind", ["path", "abstract"])
def test_a_message_is_one_datagram(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A message arrives as it is, at a socket in the file system and at an abstract one."""
    named = str(tmp_path / "notify")
    address, bound = (named, named) if kind == "path" else (f"@lpe-{os.getpid()}", f"\0lpe-{os.getpid()}")
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(bound)
        manager.settimeout(5)
        systemd.notify("READY=1")
        assert manager.recv(100) == b"READY=1"


def test_without_systemd_nothing_happens(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Started by hand there is nobody to tell, and no word about it."""
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    systemd.notify("READY=1")
    assert caplog.text == ""


def test_a_manager_that_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A socket that is not there is a line in the log and no error."""
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    systemd.notify("WATCHDOG=1")
    assert "systemd could not be told WATCHDOG: " in caplog.text
