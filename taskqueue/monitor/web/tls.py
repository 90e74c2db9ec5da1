"""TLS of the web process: its certificate and key."""

import ssl
from pathlib import Path

from taskqueue.config import MonitorSettings
from taskqueue.config.checks import Fault
from taskqueue.errors import ConfigError


def server_context(settings: MonitorSettings) -> ssl.SSLContext | None:
    """Return what the web process speaks TLS with; None without a certificate.

    It reads the key, so it is called before the process gives up root. Raises ConfigError if a file cannot be
    read, or if they are no certificate and key.
    """
    if settings.cert_file is None:
        return None
    for option in ("cert_file", "key_file"):
        _check_readable(option, getattr(settings, option))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(settings.cert_file, settings.key_file, password=lambda: b"")
    except OSError as error:  # ssl.SSLError is one
        expected = "a certificate and its key, unencrypted, in PEM format"
        raise ConfigError([Fault(None, "monitor", "cert_file", expected, _reason(error))]) from None
    return context


def _check_readable(option: str, path: str | None) -> None:
    if path is None:
        return
    try:
        with Path(path).open("rb") as file:
            file.read(1)
    except OSError as error:
        found = f"{path!r}: {error.strerror}"
        raise ConfigError([Fault(None, "monitor", option, "a readable file", found)]) from None


def _reason(error: OSError) -> str:
    return getattr(error, "reason", None) or error.strerror or type(error).__name__
