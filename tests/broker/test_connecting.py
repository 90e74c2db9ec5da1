"""Connections go to the hosts in turn, and through TLS."""

import contextlib
import select
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from support.certificates import make_certificate
from support.forked import Forked
from support.ground import Ground
from support.processes import run_cli
from support.script import Scripted

from taskqueue.broker import session
from taskqueue.broker.session import Session
from taskqueue.calls.submission import Submission, submit
from taskqueue.config import AmqpSettings


def test_the_hosts_are_tried_in_turn(ground: Ground) -> None:
    url = ground.url.replace("@127.0.0.1", "@127.0.0.1:1,127.0.0.1")
    done = run_cli("submit", "thing", "1", env={"TASKQUEUE_AMQP": url})
    assert (done.returncode, done.stderr) == (0, "")
    assert ground.foreign.depth("taskqueue") == 1


def test_a_connection_that_is_reset_as_soon_as_it_is_made_is_no_bug_of_ours(
    forked: Callable[[Callable[[], object]], Forked], monkeypatch: pytest.MonkeyPatch
) -> None:
    look = socket.socket.getpeername
    reset = struct.pack("ii", 1, 0)  # socket(7), SO_LINGER
    with socket.create_server(("127.0.0.1", 0)) as server:

        def look_too_late(connection: socket.socket) -> object:
            monkeypatch.undo()
            client, _ = server.accept()
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
            client.close()
            select.select([connection], [], [], 10)
            return look(connection)

        monkeypatch.setattr(socket.socket, "getpeername", look_too_late)
        address = AmqpSettings((server.getsockname(),))
        child = forked(lambda: submit(address, [Submission("1", "thing", b"1", "application/json")]))
        child.wait()
    assert child.output().splitlines()[-1].endswith("cannot be reached: Connection reset by peer")


def test_a_new_address_ends_the_pause_before_the_next_attempt(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "_FIRST_DELAY", 3600.0)  # seconds
    scripted = Scripted("amqp://127.0.0.1:1")
    connecting = Session(
        scripted.loop,
        scripted.session.amqp,
        "test",
        on_error=lambda _error: scripted.loop.call_later(0, partial(connecting.configure, given)),
        longest_delay=3600.0,
    )
    scripted.session, given = connecting, AmqpSettings.from_url(ground.url)
    scripted.perform(iter(()), lambda: connecting.is_up, lambda: "no connection")


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A certificate for 127.0.0.1, with its key in the same file."""
    path, key = make_certificate(tmp_path, "broker")
    path.write_bytes(path.read_bytes() + key.read_bytes())
    return path


@pytest.fixture
def tls_port(ground: Ground, certificate: Path) -> Iterator[int]:
    """A port that speaks TLS with one client, and passes what it says on to the broker."""
    with speaking_tls(ground, certificate) as port:
        yield port


@contextlib.contextmanager
def speaking_tls(ground: Ground, certificate: Path, authority: Path | None = None) -> Iterator[int]:
    """Yield a port that speaks TLS with one client; with an authority, it asks for a certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    if authority is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(authority)
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(20)
        port = urlsplit(ground.url).port
        serving = threading.Thread(target=serve, args=(server, context, port), daemon=True)
        serving.start()
        yield server.getsockname()[1]
        serving.join()


def serve(server: socket.socket, context: ssl.SSLContext, port: int) -> None:
    with contextlib.suppress(OSError):  # a client that does not trust us leaves
        client, _ = server.accept()
        address = ("127.0.0.1", port)
        with (
            context.wrap_socket(client, server_side=True) as plain,
            socket.create_connection(address) as broker,
        ):
            back = threading.Thread(target=forward, args=(broker, plain), daemon=True)
            back.start()
            forward(plain, broker)
            back.join()


def forward(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


@pytest.mark.parametrize("trusted", ["ours", "the system's"])
def test_tls_is_spoken_with_a_broker_whose_authority_is_trusted(
    ground: Ground, tls_port: int, certificate: Path, tmp_path: Path, trusted: str
) -> None:
    address = urlsplit(ground.url)
    url = ground.url.replace("amqp:", "amqps:").replace(f":{address.port}/", f":{tls_port}/")
    config = tmp_path / "config.ini"
    config.write_text(f"[amqp]\nurl: {url}\n" + (f"ca_file: {certificate}\n" if trusted == "ours" else ""))
    config.chmod(0o600)
    done = run_cli("submit", "thing", "1", "-c", str(config))
    if trusted == "ours":
        assert (done.returncode, done.stderr) == (0, "")
        assert ground.foreign.depth("taskqueue") == 1
    else:
        assert done.returncode == 69
        assert "CERTIFICATE_VERIFY_FAILED" in done.stderr


@pytest.mark.parametrize("shown", ["certificate and key", "both in one file", "none", "a stranger's"])
def test_a_broker_that_asks_for_a_certificate_is_shown_ours(
    ground: Ground, certificate: Path, tmp_path: Path, shown: str
) -> None:
    authority, key = make_certificate(tmp_path, "client")
    stranger, strangers_key = make_certificate(tmp_path, "stranger")
    both = tmp_path / "both.pem"
    both.write_bytes(authority.read_bytes() + key.read_bytes())
    options = {
        "certificate and key": f"cert_file: {authority}\nkey_file: {key}\n",
        "both in one file": f"cert_file: {both}\n",
        "none": "",
        "a stranger's": f"cert_file: {stranger}\nkey_file: {strangers_key}\n",
    }
    with speaking_tls(ground, certificate, authority) as port:
        parts = urlsplit(ground.url)
        url = ground.url.replace("amqp:", "amqps:").replace(f":{parts.port}/", f":{port}/")
        config = tmp_path / "config.ini"
        config.write_text(f"[amqp]\nurl: {url}\nca_file: {certificate}\n{options[shown]}")
        config.chmod(0o600)
        done = run_cli("submit", "thing", "1", "-c", str(config))
    if shown in ("none", "a stranger's"):
        assert (done.returncode, len(done.stderr.splitlines())) == (69, 1), done.stderr
        assert done.stderr.startswith(f"taskqueue: the broker at 127.0.0.1:{port} cannot be reached: ")
    else:
        assert (done.returncode, done.stderr) == (0, "")
        assert ground.foreign.depth("taskqueue") == 1
