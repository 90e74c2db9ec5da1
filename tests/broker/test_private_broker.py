"""The RabbitMQ node of a user's own."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit

import amqp
import pytest
from support.foreign import Foreign
from support.node import Node
from support.processes import command, environment, exists, kill, listeners, pids, tree
from support.stranger import stranger
from support.waiting import wait_until

from taskqueue.address import of_private_broker
from taskqueue.broker.listener import listener_at, other_end
from taskqueue.calls.submission import submit
from taskqueue.errors import AlreadyRunning, BrokerUnavailable
from taskqueue.private_broker import PrivateBroker, running
from taskqueue.private_broker.rabbitmq import SERVER, installed_home

OWNER = """
import sys, time
from pathlib import Path
from taskqueue.private_broker import PrivateBroker
broker = PrivateBroker(Path(sys.argv[1]))
broker.start()
print(broker.pid, flush=True)
time.sleep(600)
"""


def epmds() -> set[int]:
    return {pid for pid in pids() if "epmd" in command(pid).split(" ")[0]}


def script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def parts(url: str) -> tuple[str | None, int | None]:
    """Return the password and the port of a URL."""
    split = urlsplit(url)
    return split.password, split.port


@pytest.fixture(scope="module")
def started(rabbitmq: None, node_directory: Path) -> Iterator[SimpleNamespace]:
    """A node with default settings, and the epmds that ran before it."""
    home = node_directory / "home"
    before = epmds()
    with PrivateBroker(home / "taskqueue" / "broker") as node:
        yield SimpleNamespace(node=node, home=home, epmds_before=before)


@pytest.fixture
def node(started: SimpleNamespace) -> PrivateBroker:
    return started.node


def test_it_works_when_start_returns(node: PrivateBroker) -> None:
    with Foreign(node.url) as client:
        client.declare("greetings")
        client.publish("hello", "greetings")
        assert client.get("greetings").body == "hello"


def test_starting_it_again_changes_nothing(node: PrivateBroker) -> None:
    before = node.pid
    node.start()
    assert node.pid == before


def test_two_nodes_have_their_own_ports(node: PrivateBroker, broker: Node) -> None:
    assert node.port != broker.port


def test_it_listens_on_one_loopback_port_and_nowhere_else(node: PrivateBroker) -> None:
    assert listeners(tree(node.pid)) == {("0100007F", node.port)}


def test_it_leaves_no_epmd(started: SimpleNamespace) -> None:
    assert epmds() <= started.epmds_before


def test_only_its_owner_may_read_its_files(node: PrivateBroker) -> None:
    assert node.state_dir.stat().st_mode & 0o777 == 0o700
    for name in ("password", "address", "advanced.config"):
        assert (node.state_dir / name).stat().st_mode & 0o777 == 0o600, name


def test_its_password_is_in_no_command_line_and_no_environment(node: PrivateBroker) -> None:
    password = (node.state_dir / "password").read_text()
    assert password in node.url
    assert "RABBITMQ_NODENAME" in environment(node.pid)  # it can be seen from here
    for pid in pids():
        assert password not in command(pid)
        assert password not in environment(pid)


@pytest.mark.parametrize("user", ["taskqueue:guessed", "guest:guest"])
def test_other_passwords_are_refused(node: PrivateBroker, user: str) -> None:
    with pytest.raises(amqp.AccessRefused), Foreign(f"amqp://{user}@127.0.0.1:{node.port}/") as client:
        client.declare("greetings")


def test_a_second_one_on_the_same_directory_is_already_running(node: PrivateBroker) -> None:
    second = PrivateBroker(node.state_dir)
    with pytest.raises(AlreadyRunning) as caught:
        second.start()
    assert str(caught.value) == (
        f"process {os.getpid()} already runs a private broker on the data in {node.state_dir}"
    )
    second.stop()
    assert running(node.state_dir) == node.url


def test_it_is_found_where_the_users_state_is_kept(
    started: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(started.home))
    assert running() == started.node.url


def test_none_is_found_where_none_ever_ran(tmp_path: Path) -> None:
    assert running(tmp_path) is None


def test_a_stale_address_is_not_believed(node: PrivateBroker, tmp_path: Path) -> None:
    for name in ("address", "node.lock", "owner.lock"):
        shutil.copy(node.state_dir / name, tmp_path)
    assert running(tmp_path) is None


def test_data_and_password_survive_a_stop_and_the_port_a_kill(rabbitmq: None, node_directory: Path) -> None:
    node = PrivateBroker(node_directory / "lasting")
    node.start()
    url = node.url
    with Foreign(url) as client:
        client.declare("memory")
        client.publish("first", "memory")
        client.publish("second", "memory")
    node.stop()  # so that the queue is written down: RabbitMQ confirms a declaration before that
    node.start()
    before, url = url, node.url
    assert parts(before)[0] == parts(url)[0]
    assert parts(before)[1] != parts(url)[1]  # what others know of the last one is of no use to them
    node.kill()
    assert not node.alive
    assert running(node.state_dir) is None
    node.start()
    assert node.url == url
    with Foreign(url) as client:
        assert client.get("memory").body == "first"
    processes = tree(node.pid)
    node.stop()
    wait_until(lambda: not any(map(exists, processes)), what="the end of the node's processes")
    with PrivateBroker(node.state_dir) as successor, Foreign(successor.url) as client:
        assert parts(successor.url)[0] == parts(url)[0]
        assert parts(successor.url)[1] != parts(url)[1]
        assert client.get("memory").body == "second"


def test_it_ends_with_an_owner_that_is_killed(rabbitmq: None, node_directory: Path) -> None:
    state_dir = node_directory / "orphan"
    owner = subprocess.Popen([sys.executable, "-c", OWNER, str(state_dir)], stdout=subprocess.PIPE, text=True)
    with owner:
        processes = tree(int(owner.stdout.readline()))
        assert all(map(exists, processes))
        owner.kill()
    try:
        wait_until(lambda: not any(map(exists, processes)), what="the end of the node's processes")
    finally:
        for pid in filter(exists, processes):
            kill(pid)
    wait_until(lambda: running(state_dir) is None, what="the end of whoever else the node had started")


def test_without_rabbitmq_it_says_which_package_to_install(tmp_path: Path) -> None:
    with pytest.raises(BrokerUnavailable) as caught:
        PrivateBroker(tmp_path / "state", server=tmp_path / "rabbitmq-server").start()
    assert str(caught.value) == "RabbitMQ is not installed: apt-get install rabbitmq-server"
    assert not (tmp_path / "state").exists()


def test_a_node_that_does_not_start_is_told_with_its_log_and_first_error(tmp_path: Path) -> None:
    server = script(
        tmp_path / "rabbitmq-server",
        "echo '2026-11-21 18:10:43 [error] <0.131.0> '\n"
        "echo '2026-11-21 18:10:43 [error] <0.131.0> The disk is on fire'\n"
        "echo '2026-11-21 18:10:44 [error] <0.131.0> So nothing works'\n"
        "exit 1",
    )
    node = PrivateBroker(tmp_path / "state", server=server)
    with pytest.raises(BrokerUnavailable) as caught:
        node.start()
    log = tmp_path / "state" / "broker.log"
    assert str(caught.value) == f"RabbitMQ does not start; {log} says: The disk is on fire"
    assert not node.alive


def test_a_node_that_is_not_ready_in_time_is_killed(tmp_path: Path) -> None:
    server = script(tmp_path / "rabbitmq-server", f"echo $$ > {tmp_path}/pid\necho thinking\nexec sleep 60")
    with pytest.raises(BrokerUnavailable, match=r"is not ready in time; .*/broker\.log says: thinking"):
        PrivateBroker(tmp_path / "state", server=server).start(timeout=0.5)
    wait_until(lambda: not exists(int((tmp_path / "pid").read_text())), what="the killed node's end")


def test_after_a_failed_start_the_directory_is_free_again(tmp_path: Path) -> None:
    server = script(tmp_path / "rabbitmq-server", "exit 1")
    for _ in range(2):
        with pytest.raises(BrokerUnavailable, match="does not start"):
            PrivateBroker(tmp_path / "state", server=server).start()


def test_a_directory_with_other_things_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "diary").write_text("dear diary")
    tmp_path.chmod(0o755)
    node = PrivateBroker(tmp_path, keep_data=False, server=Path("/bin/true"))
    with pytest.raises(BrokerUnavailable, match="holds something else than a private broker's data"):
        node.start()
    node.stop()
    assert [path.name for path in tmp_path.iterdir()] == ["diary"]
    assert tmp_path.stat().st_mode & 0o777 == 0o755


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_it_runs_in_a_home_of_any_other_name(rabbitmq: None, tmp_path: Path) -> None:
    with Node(tmp_path / 'the "home" of\tJos\u00e9 $HOME `id`; \\ (*) & <x> #' / "broker") as node:
        node.add_vhost("there")
        with Foreign(node.url_of("there")) as client:
            client.declare("greetings")


@pytest.mark.parametrize("name", [b"o'brien", b"a:b", b"caf\xe9"])
def test_a_home_that_rabbitmq_cannot_run_in_is_refused_at_once_with_what_to_do(
    tmp_path: Path, name: bytes
) -> None:
    path = tmp_path / os.fsdecode(name) / "broker"
    with pytest.raises(BrokerUnavailable) as refused:
        PrivateBroker(path).start()
    assert str(refused.value) == (
        "no place for a private broker: expected a path in UTF-8 that RabbitMQ takes, without ' and :, "
        f"found {str(path)!r}; XDG_STATE_HOME names another"
    )
    assert not path.exists()


def test_a_directory_of_another_user_is_refused(tmp_path: Path) -> None:
    os.chown(tmp_path, 65534, 65534)
    with pytest.raises(BrokerUnavailable, match=r"belongs to another user \(user id 65534\)"):
        PrivateBroker(tmp_path, server=Path("/bin/true")).start()


def test_a_node_without_lasting_data_removes_its_directory(rabbitmq: None, node_directory: Path) -> None:
    with PrivateBroker(node_directory / "passing", keep_data=False) as node:
        assert node.state_dir.exists()
    assert not node.state_dir.exists()


def test_it_needs_no_amqp_client() -> None:
    code = "import sys, taskqueue.private_broker; sys.exit('pika' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user, too")


@as_root
def test_a_port_that_another_user_has_taken_is_left_to_them_and_they_hear_no_password(
    rabbitmq: None, node_directory: Path, tmp_path: Path
) -> None:
    notes, port = tmp_path / "notes", tmp_path / "port"
    listen = f"from support.stranger import listen; listen($RABBITMQ_NODE_PORT, '{notes}')"
    first = f"""
        [ -e {port} ] || {{
            echo "$RABBITMQ_NODE_PORT" >{port}
            cd {Path(__file__).parents[1]}
            setsid {sys.executable} -c "{listen}" &
            echo $! >{tmp_path}/stranger
            until [ -s {notes} ]; do sleep 0.02; done
        }}
        export RABBITMQ_SCRIPTS_DIR={installed_home(SERVER) / "sbin"}
        exec {SERVER}"""
    try:
        with PrivateBroker(node_directory / "contested", server=script(tmp_path / "server", first)) as node:
            assert node.port != int(port.read_text())
            with Foreign(node.url) as client:
                client.declare("greetings")
            assert running(node.state_dir) == node.url
            assert (node.state_dir / "password").read_bytes() not in notes.read_bytes()
    finally:
        kill(int((tmp_path / "stranger").read_text()))


@as_root
def test_a_client_tells_the_password_to_the_owner_of_its_private_broker_and_nobody_else(
    node: PrivateBroker, tmp_path: Path
) -> None:
    address = of_private_broker(node.url)
    submit(address, [])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    moved = replace(address, hosts=(("127.0.0.1", port),))
    with (
        stranger(port, tmp_path / "notes"),
        pytest.raises(BrokerUnavailable, match=f"the server at 127.0.0.1:{port} belongs to another user"),
    ):
        submit(moved, [])
    heard = (tmp_path / "notes").read_bytes()
    assert b"AMQP" in heard
    assert address.password.encode() not in heard


def test_who_has_the_other_end_of_a_connection_is_known() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.socket() as client,
        subprocess.Popen(["cat"], stdin=subprocess.PIPE, start_new_session=True) as other,
    ):
        client.connect(server.getsockname())
        accepted, _ = server.accept()
        with accepted:
            inode = os.fstat(accepted.fileno()).st_ino
            assert other_end(client) == (os.geteuid(), inode)
            assert other_end(client).is_held_in(os.getsid(0))
            assert not other_end(client).is_held_in(other.pid)
        assert listener_at(server.getsockname()[1]) == (os.geteuid(), os.fstat(server.fileno()).st_ino)
    assert listener_at(1) is None


@pytest.mark.parametrize("address", ["0.0.0.0", "127.0.0.1", "::", "::ffff:127.0.0.1"])
def test_who_serves_a_loopback_port_is_known_whatever_the_address_is_written_like(address: str) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as server:
        server.bind((address, 0))
        assert listener_at(server.getsockname()[1]) is None
        server.listen()
        assert listener_at(server.getsockname()[1]) == (os.geteuid(), os.fstat(server.fileno()).st_ino)


@pytest.mark.parametrize("boots", ["", "trap '' TERM"])
def test_a_node_whose_owner_is_killed_while_it_boots_ends_whether_it_heeds_that_or_not(
    tmp_path: Path, boots: str
) -> None:
    server = script(tmp_path / "server", f"{boots}\necho $$ >{tmp_path}/pid\nwhile :; do sleep 0.1; done")
    code = f"{OWNER.replace('Path(sys.argv[1])', 'Path(sys.argv[1]), server=Path(sys.argv[2])')}"
    arguments = [str(tmp_path / "state"), str(server)]
    with subprocess.Popen([sys.executable, "-c", code, *arguments]) as owner:
        pid = tmp_path / "pid"
        wait_until(lambda: pid.exists() and pid.read_text().strip(), what="the node's first line")
        assert exists(int(pid.read_text()))
        owner.kill()
    wait_until(lambda: not exists(int(pid.read_text())), 20, "the end of a node without an owner")
