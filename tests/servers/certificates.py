"""Certificates for tests, made by the openssl command: self-signed, for any names and any time."""

import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest

_CONFIG: Final = """
[ca]
default_ca = here
[here]
database = {folder}/index
new_certs_dir = {folder}
default_md = sha256
serial = {folder}/serial
policy = anything
copy_extensions = copy
[anything]
commonName = supplied
"""


def make_certificate(
    folder: Path,
    *,
    names: str = "IP:127.0.0.1,DNS:localhost",
    begins: str = "20200101000000Z",
    ends: str = "20991231235959Z",
) -> tuple[Path, Path]:
    """Write a certificate and its key for ``names`` (as in a subjectAltName); gives their paths."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("the openssl command is not installed")
    folder.mkdir(parents=True)
    certificate, key, request, config = (folder / name for name in ("cert.pem", "key.pem", "request.pem", "config"))
    config.write_text(_CONFIG.format(folder=folder))
    (folder / "index").touch()
    (folder / "serial").write_text("01")
    make_request = [
        *(openssl, "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
        *("-keyout", str(key), "-out", str(request), "-subj", "/CN=test", "-addext", f"subjectAltName={names}"),
    ]
    sign = [
        *(
            openssl,
            "ca",
            "-batch",
            "-notext",
            "-selfsign",
            "-rand_serial",
            "-config",
            str(config),
            "-keyfile",
            str(key),
        ),
        *("-in", str(request), "-out", str(certificate), "-startdate", begins, "-enddate", ends),
    ]
    for command in (make_request, sign):
        subprocess.run(command, check=True, capture_output=True)
    return certificate, key
