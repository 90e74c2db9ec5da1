"""Every message of a hostile producer becomes a result or is kept, and no process dies."""

import random
import struct

import pytest
from support.ground import Ground
from support.node import Node
from support.processes import children
from support.waiting import wait_until
from support.wire import RawMessage, long, nested, properties, short, table

NUMBER = 400
CONFIG = "[DEFAULT]\nworkers: 0\n[tell]\nworkers: 2\n[echo]\nworkers: 1\n"
QUEUES = ("taskqueue", "worker_tell", "worker_echo")
ENDS = ("results", "answers", "taskqueue_failed", "taskqueue_rejected")

NAMES = [b"", b"x", b"x" * 255, b"\xff\xfe", b"\0", b"a\nb\x1b[31m", "grüß".encode(), b"..", b"#", b"*"]
TYPES = [b"tell"] * 6 + [b"echo"] * 3 + [*NAMES, b"../../etc", b"tell ", b"TELL", b"none"]
REPLIES = [b"answers"] * 6 + [
    b"results",
    b"taskqueue",
    b"worker_tell",
    b"taskqueue_rejected",
    b"gone",
    *NAMES,
]
CONTENT_TYPES = [
    b"application/json",
    b"text/plain",
    b"application/octet-stream",
    b"image/png",
    *NAMES,
    b"text/plain; charset=utf-16",
    b"text/plain; charset=punycode",
    b"x/y+json",
    b"application/json;" * 15,
]
ENCODINGS = [b"gzip", b"deflate", b"identity", b"utf-8", *NAMES]
BODIES = [
    b"",
    b"{}",
    b"[]",
    b"[1",
    b"{",
    b"\0" * 1000,
    b'"text"',
    b"1e400",
    b"NaN",
    b"\xff\xfe{\0}\0",
    b"\xef\xbb\xbf7",
    b'{"worker_type": "tell", "workitem": [NaN, 1e400]}',
    b'{"fei": 1, "fields": {"params": {}}}',
    b"tell me",
    b"[" * 5000,
    b"\x1f\x8b\x08" + bytes(50),
    b'{"worker_type": {}, "workitem": 1}',
]

#: Header values of every type, as AMQP writes them; many of them make no sense where they stand.
#: RabbitMQ closes the connection for NaN and infinity.
VALUES = [
    b"t\1",
    b"V",
    b"b\xff",
    b"s\xff\xff",
    b"I\xff\xff\xff\xff",
    b"l\x80" + bytes(7),
    b"l\x7f" + b"\xff" * 7,
    b"f\x3f\xc0\0\0",
    b"d" + struct.pack(">d", -1e300),
    b"d" + struct.pack(">d", 1e300),
    b"D\xff\xff\xff\xff\xff",
    b"T" + b"\xff" * 8,
    b"T" + bytes(8),
    b"S" + long(b""),
    b"S" + long(b"\xff" * 10_000),
    b"x" + long(b"\0"),
    b"A" + long(b""),
    b"A" + long(b"V" * 1000),
    b"F" + table([]),
    b"F" + table([(b"", b"V")] * 500),
    nested(70),
]
HEADERS = [
    b"x-taskqueue-" + each
    for each in (
        b"due",
        b"deadline",
        b"notify",
        b"wait",
        b"attempt",
        b"crashes",
        b"failures",
        b"history",
        b"user",
        b"reason",
        b"queue",
        b"original",
        b"status",
        b"reply-to",
        b"",
    )
]
HEADERS += [b"x-death", b"x-first-death-queue", b"x-delivery-count", b"", b"x" * 255, b"\xff", b"mine"]


def hostile(chance: random.Random) -> tuple[bytes, bytes]:
    """Return the properties of a message, and its body."""
    fields: dict[str, bytes] = {"delivery_mode": chance.choice([b"\1", b"\2"])}
    choices = {
        "content_type": CONTENT_TYPES,
        "correlation_id": NAMES,
        "reply_to": REPLIES,
        "message_id": NAMES,
        "type": TYPES,
        "content_encoding": ENCODINGS,
    }
    for name, values in choices.items():
        if chance.random() < (0.15 if name == "content_encoding" else 0.6):
            fields[name] = short(chance.choice(values))
    if chance.random() < 0.7:
        fields["headers"] = table(
            (chance.choice(HEADERS), chance.choice(VALUES)) for _ in range(chance.randrange(1, 6))
        )
    return properties(**fields), chance.choice(BODIES)


def publish(ground: Ground, raw: bytes, body: bytes, queue: str) -> None:
    message = RawMessage(body, raw)
    ground.foreign._do(lambda channel: channel.basic_publish_confirm(message, "", queue, mandatory=True))


def succeeded(ground: Ground, queue: str, number: int) -> int:
    """Take so many messages of a queue; return how many say that a workitem succeeded."""
    return sum(b"succeeded" in message.raw for message in ground.foreign.collect(queue, number))


def test_nothing_that_a_producer_writes_is_lost_or_ends_a_daemon(
    ground: Ground, broker: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    for queue in (*QUEUES, *ENDS):
        ground.foreign.declare(queue)
    daemons = [ground.start("dispatcher", CONFIG), ground.start("workerpool", CONFIG)]
    before = [set(children(daemon.pid)) for daemon in daemons]
    chance = random.Random(15)
    for _ in range(NUMBER):
        publish(ground, *hostile(chance), chance.choice(QUEUES))
    vhost = ground.url.rpartition("/")[2]
    wait_until(lambda: not any(broker.messages(vhost, queue) for queue in QUEUES), 100)
    unserved = [queue for queue in broker.queues(vhost) if queue.startswith("worker_")]
    counted = {queue: broker.messages(vhost, queue) for queue in ENDS}
    monkeypatch.setattr("amqp.method_framing.Message", RawMessage)  # py-amqp would not read some of them
    good = sum(succeeded(ground, queue, counted[queue]) for queue in ("results", "answers"))
    waiting = sum(broker.messages(vhost, queue) for queue in unserved)  # for plugins that do not exist
    assert good + waiting + counted["taskqueue_failed"] + counted["taskqueue_rejected"] == NUMBER
    assert min(good, *counted.values()) > NUMBER / 20, "one way of ending is hardly tried"
    assert [set(children(daemon.pid)) for daemon in daemons] == before
    for daemon in daemons:
        assert "Traceback" not in daemon.output()
