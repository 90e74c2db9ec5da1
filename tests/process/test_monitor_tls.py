"""The web process with a certificate, and the commands that ask it."""

import subprocess

import pytest
from support.certificates import make_certificate
from support.processes import run_cli
from support.recorded import write_record
from support.web import Web

from taskqueue.monitor.web import users

TOKEN = users.new_secret()


@pytest.fixture
def certificate(tmp_path):
    """A certificate that is its own authority, with its key in the same file."""
    path, key = make_certificate(tmp_path, "monitor")
    path.write_bytes(path.read_bytes() + key.read_bytes())
    return path


@pytest.fixture
def web(daemon, tmp_path, certificate):
    write_record(tmp_path / "record")
    return Web(daemon, tmp_path / "record", TOKEN, certificate=certificate)


def status(web, *arguments):
    return run_cli(
        "status", "north-1", "--monitor", web.url, *arguments, env={"TASKQUEUE_MONITOR_TOKEN": TOKEN}
    )


def test_a_command_that_trusts_the_certificate_reads_the_record(web, certificate):
    done = status(web, "--ca-file", str(certificate))
    assert (done.returncode, done.stderr) == (0, "")
    assert "succeeded" in done.stdout


def test_another_client_reads_it_with_tls(web, certificate):
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{web.port}", "-CAfile", certificate, "-quiet"]
    request = "GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    done = subprocess.run(command, input=request, capture_output=True, text=True, timeout=30, check=False)
    assert done.stdout.startswith("HTTP/1.1 200 OK"), done
    assert "verify error" not in done.stderr


def test_a_certificate_that_is_not_trusted_is_named_and_the_token_not_sent(web):
    done = status(web)
    assert done.returncode == 69
    assert done.stderr == (
        f"taskqueue: the monitor at {web.url} cannot be reached: its certificate is not trusted: "
        "self-signed certificate; name the one to trust by --ca-file\n"
    )


def test_http_is_not_answered(web):
    assert web.raw(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n") == b""
    assert web.daemon.stop() == 0


@pytest.mark.parametrize(
    ("url", "file", "expected"),
    [
        (
            "https://127.0.0.1:1",
            "missing",
            "--ca-file {}: expected certificates, found: No such file or directory",
        ),
        (
            "https://127.0.0.1:1",
            "empty",
            "--ca-file {}: expected certificates, found: no certificate in PEM format",
        ),
        ("http://127.0.0.1:1", "empty", "--ca-file: expected a monitor at https://HOST:PORT, found "),
    ],
)
def test_a_ca_file_that_cannot_be_used_is_named(tmp_path, url, file, expected):
    (tmp_path / "empty").touch()
    path = tmp_path / file
    done = run_cli("status", "--monitor", url, "--ca-file", str(path))
    assert done.returncode == 78
    assert expected.format(path) in done.stderr
    assert done.stderr.count("\n") == 1
