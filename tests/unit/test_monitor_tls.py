"""Which certificates and keys the web process accepts."""

import subprocess

import pytest
from support.certificates import make_certificate

from taskqueue.config import MonitorSettings
from taskqueue.errors import ConfigError
from taskqueue.monitor.web.tls import server_context


def refusal(cert_file, key_file=None):
    with pytest.raises(ConfigError) as raised:
        server_context(MonitorSettings(cert_file=str(cert_file), key_file=key_file and str(key_file)))
    return str(raised.value)


def test_a_certificate_and_its_key_are_accepted_and_none_means_http(tmp_path):
    path, key = make_certificate(tmp_path, "monitor")
    assert server_context(MonitorSettings(cert_file=str(path), key_file=str(key))) is not None
    assert server_context(MonitorSettings()) is None


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    path, _ = make_certificate(tmp_path, "monitor")
    assert refusal(path, tmp_path / "none") == (
        "section [monitor], option key_file: expected a readable file, "
        f"found '{tmp_path}/none': No such file or directory"
    )
    assert "option cert_file: expected a readable file" in refusal(tmp_path)


def test_what_does_not_fit_together_is_refused(tmp_path):
    path, key = make_certificate(tmp_path, "monitor")
    _, other = make_certificate(tmp_path, "other")
    locked = tmp_path / "locked"
    command = ["openssl", "ec", "-aes256", "-passout", "pass:secret", "-in", key, "-out", locked]
    subprocess.run(command, check=True, capture_output=True)
    expected = "option cert_file: expected a certificate and its key, unencrypted, in PEM format, found "
    for each in (other, locked, None):
        assert expected in refusal(path, each)
    assert expected in refusal(key, key)
