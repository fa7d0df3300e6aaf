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


def make_home_authority(folder: Path, *, names: str = "IP:127.0.0.1,DNS:localhost") -> tuple[Path, Path, Path]:
    """Write a CA as people make one at home, without key usage, and a certificate that it signed; gives CA, certificate, key."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("the openssl command is not installed")
    folder.mkdir(parents=True)
    authority, own_key, certificate, key, request, config, extensions = (
        folder / name for name in ("ca.pem", "ca-key.pem", "cert.pem", "key.pem", "request.pem", "config", "extensions")
    )
    config.write_text(
        "[req]\ndistinguished_name = name\nx509_extensions = ca\n[name]\n[ca]\nbasicConstraints = CA:TRUE\n"
    )
    extensions.write_text(f"subjectAltName = {names}\n")
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    for command in (
        (
            *("req", "-x509", "-new", *curve, "-keyout", own_key, "-out", authority, "-subj", "/CN=home"),
            "-config",
            config,
        ),
        (*("req", "-new", *curve, "-keyout", key, "-out", request, "-subj", "/CN=server"), "-config", config),
        (
            *(
                "x509",
                "-req",
                "-in",
                request,
                "-CA",
                authority,
                "-CAkey",
                own_key,
                "-CAcreateserial",
                "-out",
                certificate,
            ),
            *("-days", "9000", "-extfile", extensions),
        ),
    ):
        subprocess.run([openssl, *map(str, command)], check=True, capture_output=True)
    return authority, certificate, key


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
