"""A real nginx on loopback, ended with the test."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.real.conftest import need
from tests.waiting import eventually

_CONFIG: Final = """
daemon off;
master_process off;
user root;
pid {folder}/pid;
error_log {folder}/error.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
{servers}
}}
"""


@contextmanager
def running_nginx(folder: Path, *servers: str) -> Iterator[None]:
    """An nginx whose ``server`` blocks have these contents, while the block runs."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    need(program, "nginx")
    assert program is not None
    config = folder / "nginx.conf"
    blocks = "\n".join(f"    server {{ {each} }}" for each in servers)
    config.write_text(_CONFIG.format(folder=folder, servers=blocks), encoding="utf-8")
    process = subprocess.Popen([program, "-p", str(folder), "-e", str(folder / "error.log"), "-c", str(config)])
    try:
        eventually(lambda: (folder / "pid").exists() or process.poll() is not None, what="nginx runs", seconds=20)
        assert process.poll() is None, (folder / "error.log").read_text(encoding="utf-8")
        yield
    finally:
        process.terminate()
        process.wait(timeout=20)
