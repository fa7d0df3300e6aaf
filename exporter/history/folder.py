"""Where the history is kept: the setting ``history.path`` in terms of this machine."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

NAME: Final = "history.sqlite"
PROGRAM: Final = "llm-probe-exporter"


def history_file(path: str, environ: Mapping[str, str]) -> Path | None:
    """The file for ``auto``, ``none`` or a path: a folder that exists, else the file itself. None keeps nothing.

    ``auto`` is systemd's ``$STATE_DIRECTORY``, else ``$XDG_STATE_HOME/llm-probe-exporter``, else
    ``~/.local/state/llm-probe-exporter``; None if there is no home either.
    """
    if path == "none":
        return None
    if path != "auto":
        given = Path(path)
        return given / NAME if given.is_dir() else given
    folder = _state_folder(environ)
    return None if folder is None else folder / NAME


def _state_folder(environ: Mapping[str, str]) -> Path | None:
    # systemd gives several folders if the unit names several; only absolute paths are valid in either variable.
    of_unit = environ.get("STATE_DIRECTORY", "").partition(":")[0]
    if of_unit.startswith("/"):
        return Path(of_unit)
    of_user, home = environ.get("XDG_STATE_HOME", ""), environ.get("HOME", "")
    if of_user.startswith("/"):
        return Path(of_user) / PROGRAM
    return Path(home) / ".local" / "state" / PROGRAM if home.startswith("/") and home != "/" else None
