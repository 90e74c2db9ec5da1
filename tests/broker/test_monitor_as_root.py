"""A monitor that opens as root what its web process needs: a key, and the socket of a proxy."""

import os
import socket
import ssl
import stat
import urllib.request
from pathlib import Path

import pytest
from support.certificates import make_certificate
from support.ground import Ground
from support.processes import run_cli


def config(ground: Ground, certificate: Path, key: Path) -> str:
    return (
        f"[monitor]\ndatabase: {ground.directory}/record\nuser: taskqueue-worker\nlisten: 127.0.0.1:0\n"
        f"cert_file: {certificate}\nkey_file: {key}\n"
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_the_web_process_reads_its_key_before_it_gives_up_root(ground: Ground, tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path, "monitor")
    key.chmod(0o600)
    tmp_path.chmod(0o700)
    monitor = ground.start("monitor", config(ground, certificate, key), ready="serves at https://")
    monitor.wait_for("records")
    url = monitor.output().rpartition("serves at ")[2].split()[0]
    context = ssl.create_default_context(cafile=str(certificate))
    with urllib.request.urlopen(f"{url}/healthz", timeout=20, context=context) as answer:
        assert answer.status == 200
    assert monitor.stop() == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_what_root_rebuilds_and_checks_stays_the_owners(ground: Ground) -> None:
    record = ground.directory / "record"
    settings = f"[monitor]\ndatabase: {record}\nuser: taskqueue-worker\nlisten: 127.0.0.1:0\n"
    path = ground.write(settings)
    monitor = ground.start("monitor", settings, ready="serves at http://")
    monitor.wait_for("records")
    assert run_cli("monitor", "--check", "-c", path).returncode == 0
    assert monitor.stop() == 0
    for file in (record, *record.iterdir()):
        os.chown(file, 12345, 12345)
    (record / "lock").unlink()
    done = run_cli("monitor", "rebuild", "-c", path)
    assert done.returncode == 0, done.stderr
    found = list(record.rglob("*"))
    assert {each.stat().st_uid for each in found} == {12345}
    assert {"lock", "live.db"} <= {each.name for each in found}


def test_a_monitor_does_not_start_without_its_key_and_says_why(ground: Ground, tmp_path: Path) -> None:
    certificate, _ = make_certificate(tmp_path, "monitor")
    path = ground.write(config(ground, certificate, tmp_path / "none"))
    done = run_cli("monitor", "-f", "-c", path, env={"TASKQUEUE_AMQP": ground.url})
    assert done.returncode == 78
    expected = (
        f"section [monitor], option key_file: expected a readable file, found '{tmp_path}/none': No such file"
    )
    assert expected in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_the_socket_of_a_proxy_is_made_where_only_root_can_write(ground: Ground, tmp_path: Path) -> None:
    tmp_path.chmod(0o750)
    os.chown(tmp_path, 0, 12345)
    path = tmp_path / "proxy.socket"
    settings = (
        f"[monitor]\ndatabase: {ground.directory}/record\nuser: taskqueue-worker\nlisten: 127.0.0.1:0\n"
        f"proxy_socket: {path}\nproxy_user_header: X-Remote-User\n"
    )
    for _ in range(2):  # the second one finds the socket of the first one
        monitor = ground.start("monitor", settings, ready="serves at http://")
        monitor.wait_for("records")
        assert (path.stat().st_gid, stat.S_IMODE(path.stat().st_mode)) == (12345, 0o660)
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(20)
            sock.connect(str(path))
            sock.sendall(b"GET /api/v1/status HTTP/1.1\r\nHost: a\r\nX-Remote-User: nobody\r\n\r\n")
            assert sock.recv(1000).startswith(b"HTTP/1.1 403 ")
        assert monitor.stop() == 0
