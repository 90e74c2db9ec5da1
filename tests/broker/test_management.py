"""The recorder's questions to RabbitMQ's management API, which runs here in a node of its own."""

import contextlib
import socket
import socketserver
import threading

import pytest
from support.foreign import Foreign
from support.node import Node
from support.waiting import wait_until

from taskqueue.broker.loop import EventLoop
from taskqueue.config import AmqpSettings
from taskqueue.monitor import management
from taskqueue.monitor.management import Management


@pytest.fixture(scope="module")
def node(rabbitmq, node_directory):
    with Node(node_directory / "managed") as node:
        node.management = node.serve_management()
        yield node


def asked(url, amqp):
    """Return what the API has told, and why it lacks something."""
    loop = EventLoop()
    asking = Management(loop, url, AmqpSettings.from_url(amqp))

    def look():
        if asking.found:
            loop.stop()
        else:
            loop.call_later(0.01, look)

    look()
    loop.call_later(30, loop.stop)
    loop.run()
    asking.close()
    loop.close()
    return asking.found, asking.trouble


def queues(node):
    return asked(node.management, node.url)[0]["queues"]


def test_nodes_connections_queue_types_and_policies_are_told(node):
    policy = '<<"short">>, <<"^worker_">>, [{<<"max-length">>, 9}], 0, <<"queues">>'
    node.evaluate(f'rabbit_policy:set(<<"/">>, {policy}, <<"tests">>)')
    with Foreign(node.url) as foreign:
        foreign.declare("worker_mail")
        foreign.declare("taskqueue_failed", arguments={"x-queue-type": "quorum"})
        foreign.declare("other")
        wait_until(lambda: queues(node).get("worker_mail") == {"type": "classic", "policies": ["short"]}, 30)
        found, trouble = asked(node.management, node.url)
    assert trouble == ""
    assert found["queues"].keys() == {"worker_mail", "taskqueue_failed"}
    assert found["queues"]["taskqueue_failed"] == {"type": "quorum", "policies": []}
    (itself,) = found["nodes"]
    assert itself["running"] is True
    assert not itself["mem_alarm"]
    assert itself["mem_used"] > 10_000_000
    assert found["connections"]["number"] >= 1


def test_what_a_user_may_not_ask_is_named(node):
    found, trouble = asked(node.management, node.add_user("plain", "/"))
    assert found.keys() == {"at"}
    assert trouble.count("it needs the tag monitoring") == 3


def test_no_server_is_named_and_asked_again(node, monkeypatch):
    monkeypatch.setattr(management, "_DELAY", 0.05)
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        _, trouble = asked(f"http://127.0.0.1:{nobody.getsockname()[1]}", node.url)
    assert trouble.startswith("nodes: Connection refused; queues:")


@pytest.fixture
def stranger():
    """Serve some bytes to each connection, then perhaps more, byte by byte; return the URL of them."""
    with contextlib.ExitStack() as open_servers:

        def serve(answer, drip=b""):
            class Answer(socketserver.StreamRequestHandler):
                def handle(self):
                    while self.rfile.readline().strip():
                        pass
                    self.wfile.write(answer)
                    while drip and not is_over.wait(0.05):
                        self.wfile.write(drip)

            server = open_servers.enter_context(socketserver.ThreadingTCPServer(("127.0.0.1", 0), Answer))
            threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
            open_servers.callback(server.shutdown)
            is_over = threading.Event()
            open_servers.callback(is_over.set)
            return f"http://127.0.0.1:{server.server_address[1]}"

        yield serve


HEAD = b"HTTP/1.0 200 OK\r\n\r\n"


@pytest.mark.parametrize("body", [b"[" * 100_000, b'{"items": [], "total_count": 1e999}', b"{}", b"\xff"])
def test_an_answer_of_another_server_is_named(stranger, body):
    _, trouble = asked(stranger(HEAD + body), "amqp://guest:guest@127.0.0.1/")
    assert "connections: the answer is not that of RabbitMQ's management API" in trouble


def test_numbers_that_no_page_can_show_are_left_out(stranger):
    node = (
        b'{"name": "x", "mem_used": NaN, "disk_free": 1e999, "fd_used": 1%s, "fd_total": -7, "uptime": "x"}'
        % (b"0" * 400)
    )
    answer = HEAD + b'[{"name": "x", "uptime": 5, "running": true}, ' + node + b"]"
    found, _ = asked(stranger(answer), "amqp://guest:guest@127.0.0.1/")
    assert found["nodes"] == [{"name": "x", "uptime": 5, "running": True}, {"name": "x"}]


@pytest.mark.parametrize("begin", [HEAD, b"HTTP/1.0 200 OK\r\nX-Y: "], ids=["body", "header"])
def test_an_answer_that_never_ends_is_given_up(stranger, begin, monkeypatch):
    monkeypatch.setattr(management, "_LONGEST_ANSWER", 0.3)
    _, trouble = asked(stranger(begin, b" "), "amqp://guest:guest@127.0.0.1/")
    assert trouble.startswith("nodes: ")


def test_a_redirection_does_not_get_the_password(stranger):
    heard = []
    with socketserver.TCPServer(("127.0.0.1", 0), lambda *_: heard.append(1)) as other:
        threading.Thread(target=other.serve_forever, args=(0.05,), daemon=True).start()
        there = f"http://127.0.0.1:{other.server_address[1]}/"
        answer = f"HTTP/1.0 302 Found\r\nLocation: {there}\r\n\r\n".encode()
        _, trouble = asked(stranger(answer), "amqp://guest:guest@127.0.0.1/")
        other.shutdown()
    assert trouble.startswith("nodes: status 302")
    assert heard == []
