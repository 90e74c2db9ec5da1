"""The other tests rely on these: the cut line, the node's controls, the processes' end."""

import signal
import sys
from collections.abc import Callable

import amqp
import pytest
from support.foreign import Foreign
from support.node import Node
from support.processes import Daemon
from support.proxy import Proxy
from support.waiting import wait_until

PARENT = """
import signal, subprocess, sys
subprocess.Popen(["sleep", "600"], start_new_session=True)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
print("ready")
signal.pause()
"""


def connected(url: str) -> amqp.Connection:
    host, _, vhost = url.partition("@")[2].partition("/")
    user, _, password = url.removeprefix("amqp://").partition("@")[0].partition(":")
    connection = amqp.Connection(host, user, password, virtual_host=vhost, connect_timeout=2, read_timeout=2)
    connection.connect()
    return connection


def test_a_virtual_host_is_a_tests_own(foreign: Foreign) -> None:
    assert foreign.depth("taskqueue") is None
    foreign.declare("taskqueue")
    assert foreign.publish_many((str(number) for number in range(1000)), "taskqueue") == 1000
    wait_until(lambda: foreign.depth("taskqueue") == 1000)  # asking for it overtakes what was published
    assert [message.body for message in foreign.collect("taskqueue", 1000)][::333] == [
        "0",
        "333",
        "666",
        "999",
    ]


def test_a_new_virtual_host_is_empty(foreign: Foreign) -> None:
    assert foreign.depth("taskqueue") is None


def test_an_unroutable_message_is_no_success(foreign: Foreign) -> None:
    with pytest.raises(amqp.AMQPError):
        foreign.publish("lost", "nowhere")


def test_a_line_that_is_cut_resets_both_sides(proxy: Proxy) -> None:
    connection = connected(proxy.url)
    assert proxy.connections == 1
    proxy.cut()
    with pytest.raises(ConnectionResetError):
        connection.drain_events(timeout=5)
    connection.collect()
    assert proxy.connections == 0
    connected(proxy.url).close()


def test_a_line_that_refuses_accepts_again(proxy: Proxy) -> None:
    proxy.refuse()
    with pytest.raises(ConnectionRefusedError):
        connected(proxy.url)
    proxy.accept()
    connected(proxy.url).close()


def test_a_line_that_stalls_goes_on_where_it_stopped(proxy: Proxy, foreign: Foreign) -> None:
    foreign.declare("held")
    with Foreign(proxy.url) as through:
        through.declare("held")
        proxy.stall()
        with pytest.raises(TimeoutError):
            connected(proxy.url)
        through._channel.basic_publish(amqp.Message("late"), "", "held")
        assert foreign.poll("held") is None
        proxy.resume()
        assert foreign.get("held").body == "late"


def test_a_node_that_was_killed_is_back_with_its_virtual_hosts(broker: Node, foreign: Foreign) -> None:
    foreign.declare("memory")
    foreign.publish("kept", "memory")
    broker.kill_settled()
    broker.start()
    assert foreign.get("memory").body == "kept"


def test_an_alarm_blocks_those_who_publish(broker: Node, amqp_url: str, foreign: Foreign) -> None:
    foreign.declare("held")
    broker.set_alarm(on=True)
    try:
        connection = connected(amqp_url)
        channel = connection.channel()
        channel.basic_publish(amqp.Message("late"), "", "held")
        assert foreign.depth("held") == 0
    finally:
        broker.set_alarm(on=False)
    assert foreign.get("held").body == "late"
    connection.close()


def test_a_descendant_that_went_its_own_way_is_found(daemon: Callable[..., Daemon]) -> None:
    running = daemon([sys.executable, "-c", PARENT])
    running.wait_for("ready")
    assert len(running.processes()) == 2
    assert running.stop() == 7
    with pytest.raises(AssertionError, match="sleep 600"):
        running.assert_nothing_left(timeout=0.1)
    running.clean_up()
    running.assert_nothing_left()


def test_a_command_that_ends_early_is_told_with_its_output(daemon: Callable[..., Daemon]) -> None:
    running = daemon(["sh", "-c", "echo oops; exit 3"])
    with pytest.raises(AssertionError, match=r"ended with 3 without 'ready':\noops"):
        running.wait_for("ready")
    running.signal(signal.SIGTERM)


def test_waiting_in_vain_fails() -> None:
    with pytest.raises(AssertionError, match=r"waited 0\.05 s in vain for godot"):
        wait_until(lambda: False, 0.05, "godot")
