"""The limit: the broker operations of each row, done by a bare pika loop that does nothing else.

Run as `python -m benchmarks.bare ROLE ...` with the broker's URL in AMQP_URL; each role is one process.
"""

import json
import os
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import pika

WINDOW: Final = 1000  # messages that may be unconfirmed or unacknowledged
_ACK_BATCH: Final = 64  # confirmed messages that one acknowledgement stands for, while more are under way


def properties(*, delivery_mode: int = 2, **more: Any) -> Any:
    """Return the properties of a workitem, as taskqueue's own submission sets them."""
    return pika.BasicProperties(
        content_type="application/json",
        delivery_mode=delivery_mode,
        message_id=f"{time.monotonic_ns():032x}",
        timestamp=int(time.time()),
        **more,
    )


class Encoded(pika.BasicProperties):  # type: ignore[misc]
    """Properties that are encoded once, so that only the broker has to do with how many they are."""

    def __init__(self, properties: Any) -> None:
        """Encode properties."""
        super().__init__()
        self._bytes = b"".join(properties.encode())

    def encode(self) -> list[bytes]:
        """Return the bytes in the form that pika joins, in a list that it adds to."""
        return [self._bytes]


def result_properties() -> Encoded:
    """Return the properties of a result, as docs/protocol.md has them."""
    headers = {
        "x-taskqueue-status": "succeeded",
        "x-taskqueue-attempt": 1,
        "x-taskqueue-host": socket.gethostname(),
        "x-taskqueue-worker": "noop/1",
        "x-taskqueue-workitem": "0" * 32,
        "x-taskqueue-started": time.time_ns(),  # as long as the floating-point numbers that pika cannot write
        "x-taskqueue-ended": time.time_ns(),
    }
    return Encoded(properties(type="noop", correlation_id="0" * 32, expiration="604800000", headers=headers))


class Submitter:
    """Publishes with a window of unconfirmed messages; prints the rate from the first to the last confirm."""

    def __init__(
        self,
        queue: str,
        bodies: Sequence[bytes],
        types: Sequence[str],
        count: int,
        headers: Mapping[str, str],
    ) -> None:
        """Publish `count` messages to `queue`, bodies and types in turn.

        headers -- the messages' headers; {} in a text becomes the message's number
        """
        self._headers = headers
        self._queue, self._bodies, self._types, self._count = queue, bodies, types, count
        self._sent = self._confirmed = 0
        self._begun = 0.0
        self._channel: Any = None

    def begin(self, channel: Any) -> None:
        """Publish the first window."""
        self._channel = channel
        channel.confirm_delivery(self._on_confirm, self._ready)

    def _ready(self, _frame: Any) -> None:
        self._begun = time.perf_counter()
        self._fill()

    def _fill(self) -> None:
        while self._sent < self._count and self._sent - self._confirmed < WINDOW:
            name = self._types[self._sent % len(self._types)] if self._types else None
            body = self._bodies[self._sent % len(self._bodies)]
            more: dict[str, Any] = {"headers": self._next_headers()} if self._headers else {}
            self._channel.basic_publish("", self._queue, body, properties(type=name, **more), mandatory=True)
            self._sent += 1

    def _next_headers(self) -> dict[str, str]:
        return {name: text.format(self._sent) for name, text in self._headers.items()}

    def _on_confirm(self, frame: Any) -> None:
        # How many there are is all that counts here: the broker confirms each once.
        method = frame.method
        self._confirmed = method.delivery_tag if method.multiple else self._confirmed + 1
        if self._confirmed >= self._count and self._sent == self._count:
            seconds = time.perf_counter() - self._begun
            _say(rate=self._count / seconds, cpu=time.process_time() / self._count)
            sys.exit()
        self._fill()


class Passer:
    """Takes each message of a queue to another, and acknowledges it when that is confirmed."""

    def __init__(self, source: str, target: str, *, reports: bool = False) -> None:
        """Pass messages on; `target` is a queue, "type" for worker_<type>, or "reply" for their reply_to.

        reports -- whether a result is published instead of each message, as a worker does it
        """
        self._source, self._target = source, target
        self._prefetch, self._batch = WINDOW, _ACK_BATCH
        self._result = result_properties() if reports else None
        self._channel: Any = None
        self._sent = self._next = self._acknowledged = 0
        self._beyond: set[int] = set()  # confirmed out of order

    def begin(self, channel: Any) -> None:
        """Consume."""
        self._channel = channel
        channel.confirm_delivery(self._on_confirm, self._consume)

    def _consume(self, _frame: Any) -> None:
        channel, ready = self._channel, lambda _frame: _say(ready=True)
        channel.basic_qos(
            prefetch_count=self._prefetch,
            callback=lambda _frame: channel.basic_consume(self._source, self._deliver, callback=ready),
        )

    def _deliver(self, channel: Any, _method: Any, header: Any, body: bytes) -> None:
        queue = self._target
        if queue == "type":
            queue = f"worker_{header.type}"
        elif queue == "reply":
            queue = header.reply_to
        if self._result is not None:
            header, body = self._result, b"1"
        self._sent += 1  # the broker counts the same way: delivery and publication have the same number
        channel.basic_publish("", queue, body, header, mandatory=self._target != "reply")

    def _on_confirm(self, frame: Any) -> None:
        method = frame.method
        if method.multiple:
            self._next = max(self._next, method.delivery_tag)
        else:
            self._beyond.add(method.delivery_tag)
        while self._next + 1 in self._beyond:
            self._next += 1
            self._beyond.discard(self._next)
        if self._next - self._acknowledged >= self._batch or self._next == self._sent > self._acknowledged:
            self._channel.basic_ack(self._next, multiple=True)
            self._acknowledged = self._next


class Napper(Passer):
    """Sleeps on each message before it reports a result; what is next is at hand meanwhile."""

    def __init__(self, source: str, target: str, seconds: float) -> None:
        """Report what comes from `source` to the queue `target`."""
        super().__init__(source, target, reports=True)
        self._seconds = seconds
        self._prefetch, self._batch = 4, 1
        self._waiting: deque[tuple[Any, Any, Any, bytes]] = deque()

    def _deliver(self, channel: Any, method: Any, header: Any, body: bytes) -> None:
        self._waiting.append((channel, method, header, body))
        if len(self._waiting) == 1:
            self._nap_soon()

    def _nap_soon(self) -> None:
        """Let the loop write and read what there is between two naps."""
        self._channel.connection.ioloop.add_callback(self._nap)

    def _nap(self) -> None:
        time.sleep(self._seconds)
        super()._deliver(*self._waiting[0])
        self._waiting.popleft()
        if self._waiting:
            self._nap_soon()


class Caller:
    """Calls one at a time, over direct reply-to, as taskqueue's Client does; prints how long that takes."""

    def __init__(self, queue: str, body: bytes, name: str | None, count: int) -> None:
        """Make `count` calls."""
        self._queue, self._body, self._name, self._count = queue, body, name, count
        self._times: list[float] = []
        self._begun = 0.0
        self._channel: Any = None

    def begin(self, channel: Any) -> None:
        """Listen for replies, and make the first call."""
        self._channel = channel
        reply_to = "amq.rabbitmq.reply-to"
        channel.basic_consume(reply_to, self._replied, auto_ack=True, callback=lambda _frame: self._call())

    def _call(self) -> None:
        self._begun = time.perf_counter()
        asked = properties(delivery_mode=1, type=self._name, reply_to="amq.rabbitmq.reply-to")
        self._channel.basic_publish("", self._queue, self._body, asked)

    def _replied(self, *_: Any) -> None:
        self._times.append(time.perf_counter() - self._begun)
        if len(self._times) == self._count + self._count // 10:
            _say(**percentiles(self._times[self._count // 10 :]))  # the first ones warm up
            sys.exit()
        self._call()


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """Return median and 99th percentile, in milliseconds."""
    times = sorted(seconds)
    return {"p50": times[len(times) // 2] * 1e3, "p99": times[int(len(times) * 0.99)] * 1e3}


def _say(**found: Any) -> None:
    print(json.dumps(found), flush=True)


def serve(begin: Callable[[Any], None]) -> None:
    """Open a connection and a channel, and serve until the process is ended."""
    connection = pika.SelectConnection(
        pika.URLParameters(os.environ["AMQP_URL"]),
        on_open_callback=lambda opened: opened.channel(on_open_callback=begin),
        on_open_error_callback=lambda _connection, error: sys.exit(repr(error)),
    )
    connection.ioloop.start()


def main(role: str, *arguments: str) -> None:
    """Play a role."""
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    if role == "submit":
        queue, file, names, count, headers = arguments
        bodies = [line.encode() for line in json.loads(_read(file))]
        types = names.split(",") if names else []
        serve(Submitter(queue, bodies, types, int(count), json.loads(headers)).begin)
    elif role in ("pass", "report"):
        serve(Passer(*arguments, reports=role == "report").begin)
    elif role == "nap":
        source, target, seconds = arguments
        serve(Napper(source, target, float(seconds)).begin)
    elif role == "call":
        queue, body, name, count = arguments
        serve(Caller(queue, body.encode(), name or None, int(count)).begin)


def _read(path: str) -> str:
    with open(path, encoding="utf-8") as file:  # noqa: PTH123 -- as short as it gets
        return file.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
