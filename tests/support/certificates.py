"""Certificates for 127.0.0.1."""

import shutil
import subprocess
from pathlib import Path

import pytest


def make_certificate(directory: Path, name: str) -> tuple[Path, Path]:
    """Make a certificate, which is its own authority, and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl, which makes the certificate, is not installed")
    path, key = directory / f"{name}.pem", directory / f"{name}.key"
    key_of = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]  # made quicker than one of RSA
    new = ["-x509", *key_of, "-nodes", "-days", "2", "-subj", f"/CN={name}"]
    files = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", path]
    subprocess.run(["openssl", "req", *new, *files], check=True, capture_output=True)
    return path, key
