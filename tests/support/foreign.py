"""A client of RabbitMQ that shares no code with taskqueue: py-amqp."""

import itertools
import time
from collections.abc import Callable, Iterable
from typing import Any, Self, TypeVar
from urllib.parse import unquote, urlsplit

import amqp
from support.waiting import pauses, wait_until

T = TypeVar("T")

#: Queues in which daemons believe only users that they trust; `Foreign` is one of them.
SIGNED = ("taskqueue_schedules", "taskqueue_claims", "taskqueue_gate", "taskqueue_gate_reports")

DIRECT_REPLY = "amq.rabbitmq.reply-to"
PATIENCE = 30.0  # seconds until a broker that is away is back
ANOTHER_TRY = 0.05  # seconds


class Foreign:
    """One connection with one channel, opened again when the broker was away.

    What fails with the connection is done once more, until it works, so a publish may then happen twice.
    """

    def __init__(self, url: str) -> None:
        """Connect when there is something to do; several hosts, separated by commas, are tried in turn."""
        self._url = urlsplit(url)
        self._hosts = itertools.cycle(self._url.netloc.rpartition("@")[2].split(","))
        self._connection: amqp.Connection | None = None
        self._channel: amqp.Channel | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._connection is not None:
            self._connection.collect()  # hang up; a farewell would wait for a broker that may be gone
        self._connection = self._channel = None

    def connect(self) -> None:
        """Connect, if that has not been done; fail after PATIENCE seconds."""
        self._open_channel()

    def server_version(self) -> str:
        """Return the broker's version."""
        return str(self._open_channel().connection.server_properties["version"])

    def declare(self, queue: str, **options: Any) -> None:
        """Declare a queue, durable and without arguments unless `options` say else."""
        self._do(
            lambda channel: channel.queue_declare(queue, **{"durable": True, "auto_delete": False} | options)
        )

    def bind(self, queue: str) -> None:
        """Have a durable fanout exchange of the queue's name lead to it."""
        self._do(lambda channel: channel.exchange_declare(queue, "fanout", durable=True, auto_delete=False))
        self._do(lambda channel: channel.queue_bind(queue, queue))

    def publish(self, body: str | bytes, queue: str = "taskqueue", **properties: Any) -> None:
        """Publish one message to a queue and wait for the confirm; it must have been routed."""
        self.publish_to("", queue, body, **properties)

    def publish_to(self, exchange: str, routing_key: str, body: str | bytes, **properties: Any) -> None:
        """Publish one message to an exchange and wait for the confirm; it must have been routed.

        properties: by py-amqp's names: content_type, type, application_headers, ...
        """
        message = self._message(body, routing_key, properties)

        def publish(channel: amqp.Channel) -> bool:
            try:
                channel.basic_publish_confirm(message, exchange, routing_key, mandatory=True)
            except amqp.exceptions.MessageNacked:  # by a quorum queue whose leader has just died
                channel.close()  # 3.10.8 would refuse every other message on this channel, too
                return False
            return True

        wait_until(lambda: self._do(publish), what=f"the broker to take a message for {routing_key}")

    def publish_once(self, body: str | bytes, queue: str, **properties: Any) -> None:
        """Publish as `publish` does, but raise what fails: nobody knows then whether the broker has it."""
        message = self._message(body, queue, properties)
        channel = self._open_channel()
        try:
            channel.basic_publish_confirm(message, "", queue, mandatory=True)
        except (amqp.AMQPError, OSError):
            self.close()
            raise

    def publish_many(self, bodies: Iterable[str | bytes], queue: str = "taskqueue", **properties: Any) -> int:
        """Publish messages quickly, to a queue that exists; return their number once all are confirmed."""

        def publish(channel: amqp.Channel) -> int:
            number, confirmed = 0, set[int]()

            def confirm(tag: int, multiple: bool) -> None:  # noqa: FBT001 -- py-amqp calls it
                confirmed.update(range(1, tag + 1) if multiple else (tag,))

            channel.confirm_select()
            channel.events["basic_ack"].add(confirm)
            for body in bodies:
                channel.basic_publish(self._message(body, queue, properties), "", queue)
                number += 1
            while len(confirmed) < number:
                channel.connection.drain_events(timeout=PATIENCE)
            return number

        # On a channel of its own: confirms that nobody waits for would mislead publish_to().
        with self._do(lambda channel: channel.connection.channel()) as own:
            return publish(own)

    def _message(self, body: str | bytes, queue: str, properties: dict[str, Any]) -> amqp.Message:
        user = {"user_id": self._url.username} if queue in SIGNED else {}
        return amqp.Message(body, **{"delivery_mode": 2} | user | properties)

    def poll(self, queue: str) -> amqp.Message | None:
        """Take the next message of a queue, if there is one now; it is acknowledged.

        There need not be such a queue. An acknowledgement may be lost with a node of a cluster: then the
        message comes once more.
        """

        def poll(channel: amqp.Channel) -> amqp.Message | None:
            try:
                message = channel.basic_get(queue)
            except amqp.NotFound:
                channel.close()  # py-amqp opens it again, and takes it for one that confirms
                return None
            if message is not None:
                channel.basic_ack(message.delivery_tag)
            return message

        return self._do(poll)

    def hold(self, queue: str) -> list[amqp.Message]:
        """Take all messages of a queue, now and later, without acknowledging them; see `close`.

        Return a list to which `drain` adds them.
        """
        held: list[amqp.Message] = []
        self._do(lambda channel: channel.basic_consume(queue, callback=held.append))
        return held

    def drain(self, is_enough: Callable[[], object]) -> None:
        """Wait for messages of the queues that are held, until they are enough."""
        while not is_enough():
            self._open_channel().connection.drain_events(timeout=PATIENCE)

    def wear(self, queue: str, times: int) -> None:
        """Take the first message of a queue, which must be its only one, and return it; so many times."""

        def wear(channel: amqp.Channel) -> bool:
            message = channel.basic_get(queue)
            if message is not None:
                channel.basic_reject(message.delivery_tag, True)
            return message is not None

        for _ in range(times):
            wait_until(lambda: self._do(wear), what=f"the message of {queue}")

    def get(self, queue: str, timeout: float = 30) -> amqp.Message:
        """Take the next message of a queue, which need not exist yet; fail after `timeout` seconds."""
        return self.collect(queue, 1, timeout)[0]

    def collect(self, queue: str, number: int, timeout: float = 30) -> list[amqp.Message]:
        """Take `number` messages of a queue, which need not exist yet; fail after `timeout` seconds."""
        deadline, pause = time.monotonic() + timeout, pauses()
        messages: list[amqp.Message] = []
        while len(messages) < number:
            message = self.poll(queue)
            if message is not None:
                messages.append(message)
                pause = pauses()
            elif time.monotonic() > deadline:
                raise AssertionError(f"{len(messages)} of {number} messages on {queue} after {timeout} s")
            else:
                time.sleep(next(pause))
        return messages

    def read_stream(self, queue: str, is_all: Callable[[list[str]], bool]) -> list[str]:
        """Return the texts of a stream from its beginning on, once they are all; nothing is removed."""

        def read(channel: amqp.Channel) -> list[str]:
            texts: list[str] = []

            def take(message: amqp.Message) -> None:
                texts.append(message.body if isinstance(message.body, str) else message.body.decode())
                channel.basic_ack(message.delivery_tag)

            channel.basic_qos(0, 500, a_global=False)
            consumer = channel.basic_consume(queue, callback=take, arguments={"x-stream-offset": "first"})
            while not is_all(texts):
                channel.connection.drain_events(timeout=PATIENCE)
            channel.basic_cancel(consumer)
            return texts

        return self._do(read)

    def ask(self, exchange: str, bodies: Iterable[str | bytes], is_last: Callable[[str], bool]) -> list[str]:
        """Publish messages with a direct reply-to; return the replies up to the one that is the last."""
        replies: list[str] = []

        def take(message: amqp.Message) -> None:
            replies.append(message.body if isinstance(message.body, str) else message.body.decode())

        def ask(channel: amqp.Channel) -> list[str]:
            consumer = channel.basic_consume(DIRECT_REPLY, no_ack=True, callback=take)
            for body in bodies:
                channel.basic_publish(amqp.Message(body, reply_to=DIRECT_REPLY), exchange)
            while not replies or not is_last(replies[-1]):
                channel.connection.drain_events(timeout=PATIENCE)
            channel.basic_cancel(consumer)
            return replies

        return self._do(ask)

    def depth(self, queue: str) -> int | None:
        """Return how many messages of a queue are ready to be taken; None if there is no such queue."""
        try:
            return self._do(lambda channel: channel.queue_declare(queue, passive=True)).message_count
        except amqp.NotFound:
            return None

    def consumers(self, queue: str) -> int:
        """Return how many consumers a queue has; 0 if there is no such queue."""
        try:
            return self._do(lambda channel: channel.queue_declare(queue, passive=True)).consumer_count
        except amqp.NotFound:
            return 0

    def purge(self, queue: str) -> None:
        """Remove the messages of a queue that are ready to be taken."""
        self._do(lambda channel: channel.queue_purge(queue))

    def delete(self, queue: str) -> None:
        """Delete a queue with its messages; there need not be one."""
        self._do(lambda channel: channel.queue_delete(queue))

    def _do(self, operation: Callable[[amqp.Channel], T]) -> T:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                return operation(self._open_channel())
            except (amqp.ChannelError, amqp.NotAllowed):  # the broker's answer to what was asked for
                self.close()
                raise
            except (amqp.AMQPError, OSError):  # a node is gone, or a queue's leader: there will be another
                self.close()
                if time.monotonic() > deadline:
                    raise
                time.sleep(ANOTHER_TRY)

    def _open_channel(self) -> amqp.Channel:
        if self._connection is None:
            self._connection = self._connect()
        if self._channel is None or not self._channel.is_open:
            self._channel = self._connection.channel()
        return self._channel

    def _connect(self) -> amqp.Connection:
        deadline = time.monotonic() + PATIENCE
        while True:
            connection = amqp.Connection(
                host=next(self._hosts),
                userid=self._url.username,
                password=self._url.password,
                virtual_host=unquote(self._url.path[1:]) or "/",
                confirm_publish=False,
                connect_timeout=5,
                read_timeout=60,
            )
            try:
                connection.connect()
            except (amqp.AccessRefused, amqp.NotAllowed):
                connection.collect()
                raise
            except (amqp.AMQPError, OSError):
                connection.collect()
                if time.monotonic() > deadline:
                    raise
                time.sleep(ANOTHER_TRY)
            else:
                return connection
