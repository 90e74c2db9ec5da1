"""The thread behind a named client, whose calls outlive it: their ids and results are kept in a queue.

The queue `replies_<name>` is the store: before a request goes out, a notice that it was submitted is put
there, and its reply comes there. Both are acknowledged when the result is fetched. A client that comes back
under the name gets all of it again; the notices tell the replies to its calls from other messages.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final

from taskqueue.amqp.properties import Properties
from taskqueue.broker.publisher import Publication, Publisher, PublishResult
from taskqueue.broker.subscription import Delivery, Subscription
from taskqueue.broker.topology import REPLIES_PREFIX
from taskqueue.calls import message
from taskqueue.calls.call import Call, Status
from taskqueue.calls.engine import Engine
from taskqueue.config import AmqpSettings
from taskqueue.errors import AlreadyRunning, BrokerUnavailable, TaskError, Unroutable
from taskqueue.messages.content import JSON
from taskqueue.messages.forwarding import is_worn, new_id, renewed
from taskqueue.messages.routing import checked_type
from taskqueue.process.logs import Log, Tally
from taskqueue.texts import shorten

_MOST_OUT: Final = 30_000  # calls that are out or whose results were not fetched
_MOST_STRANGE: Final = 5_000  # replies that are kept although no notice told of their calls
_PREFETCH: Final = 65_500  # notices, replies and strange ones; there is always room for more to come
_FETCHED: Final = 1000  # calls that are remembered after they were fetched
_TAKEN_TIMEOUT: Final = 3.0  # seconds until the broker has noticed that an earlier client was killed


class NamedEngine(Engine):
    """Sends calls as an engine does, and keeps what it knows of them in a queue of its name."""

    def __init__(
        self, amqp: AmqpSettings, *, name: str, expires: float, direct: bool, broker_timeout: float
    ) -> None:
        """Prepare; `start` connects. TaskError for a name that cannot be part of a queue's.

        name -- tells this client's calls from others'
        expires -- seconds that they are kept without a client of the name
        """
        try:
            self._queue = REPLIES_PREFIX + checked_type(name)
        except Unroutable as error:
            raise TaskError(str(error).replace("worker type", "client name", 1)) from None
        super().__init__(amqp, direct=direct, broker_timeout=broker_timeout)
        self._name = name
        self._since = time.monotonic()
        self._notices: dict[str, Delivery] = {}  # by the call's id
        self._replies: dict[str, Delivery] = {}  # by the call's id
        self._answered: dict[str, Call[Any]] = {}  # whose reply is here and was not fetched
        self._fetched: OrderedDict[str, Call[Any]] = OrderedDict()
        self._strange: set[str] = set()  # the ids of replies of whose calls no notice told
        self._dropped = Tally(
            Log("client"), f"%d messages in {self._queue} that are no replies were dropped; the last: %s"
        )
        self._loaded = threading.Event()  # set when all that an earlier client has left is here
        self._consuming = self._open(amqp, f"taskqueue client {name}")
        self._subscription = Subscription(
            self._loop,
            self._consuming,
            self._queue,
            _PREFETCH,
            on_delivery=self._deliver,
            on_consuming=self._consumes,
            on_lost=self._lost,
            arguments={"x-expires": int(expires * 1000)},
            on_taken=self._taken,
        )

    def _make_publisher(self) -> Publisher:
        return Publisher(
            self._loop,
            self._session,
            on_ready=self._send_again,
            on_lost=lambda: None,
            on_batch=lambda: None,
        )

    # --- for other threads ---

    def send(self, call: Call[Any], body: bytes, *, notify: bool) -> None:
        """Send a call; BrokerUnavailable where too many are out already."""
        if len(self._calls) + len(self._answered) - len(self._strange) >= _MOST_OUT:
            raise BrokerUnavailable(f"{_MOST_OUT} calls are out whose results were not fetched")
        super().send(call, body, notify=notify)

    def find(self, id_: str) -> Call[Any] | None:
        """Return a call that was made under this name; BrokerUnavailable where that cannot be known."""
        if not self._loaded.wait(self._broker_timeout):
            raise self._unavailable()
        return self._calls.get(id_) or self._answered.get(id_) or self._fetched.get(id_)

    def fetched(self, call: Call[Any]) -> None:
        """Let go of a call whose result the user has."""
        self.do(lambda: self._let_go(call))

    # --- the thread ---

    def _connect(self) -> None:
        self._session.open()
        self._consuming.open()
        self._subscription.resume()

    def _close(self, then: Callable[[], None]) -> None:
        self._dropped.tell()
        self._subscription.flush()
        self._consuming.close(lambda: self._session.close(then))

    def abandon(self) -> None:
        """Let go of everything in a process that was forked."""
        self._consuming.abandon()
        super().abandon()

    def session_down(self) -> None:
        """Go on: replies come to a queue that outlives the connection."""

    @property
    def _reply_to(self) -> str:
        return self._queue

    @property
    def _is_ready(self) -> bool:
        return self._publisher.is_ready and self._loaded.is_set()

    def _publish(self, call: Call[Any], publication: Publication) -> None:
        """Publish the notice, and then the request: one channel keeps their order."""
        properties = Properties(
            content_type=JSON, delivery_mode=2, correlation_id=call.id, message_id=new_id()
        )
        body = message.submitted_body(call.id, call.task)
        self._publisher.publish(Publication(self._queue, properties.encode(), body, _confirmed))
        self._publisher.publish(publication)

    def _lost(self) -> None:
        """Forget the deliveries: they come again."""
        self._notices.clear()
        self._replies.clear()

    def _consumes(self) -> None:
        self._subscription.after_deliveries(self._load)

    def _load(self) -> None:
        if not self._loaded.is_set():
            self._loaded.set()
            self._send_again()

    def _taken(self) -> None:
        """Somebody consumes the queue: a client that was just killed, or one that lives."""
        if not self._loaded.is_set() and time.monotonic() - self._since > _TAKEN_TIMEOUT:
            self._trouble = AlreadyRunning(f"another client is called {self._name!r}, and has its replies")
            self._fail_all(self._trouble)

    def _deliver(self, delivery: Delivery) -> None:
        """Take a notice of ours, a consumer's notice, or a reply."""
        properties, content = message.decode(delivery.properties, delivery.body)
        id_ = properties.correlation_id or ""
        if delivery.redelivered and is_worn(properties):
            self._renew(properties, delivery)
        found = message.notice(content)
        if found is not None and found[0] == message.SUBMITTED:
            self._remember(id_, str(found[1].get("task", "")), delivery)
        elif found is not None:
            self.take(delivery.properties, delivery.body)
            self._discard(delivery)
        elif self._is_known(id_) or self._may_be_kept(id_, properties, content):
            self._take_reply(id_, properties, content, delivery)
        else:
            self._drop_stranger(delivery, id_)

    def _renew(self, properties: Properties, delivery: Delivery) -> None:
        """Put a message that was delivered often into the queue anew; its copy supersedes it here."""
        fresh = renewed(properties, self._session.amqp.user).encode()
        self._publisher.publish(Publication(self._queue, fresh, delivery.body, _confirmed))

    def _is_known(self, id_: str) -> bool:
        return any(id_ in calls for calls in (self._calls, self._answered, self._fetched))

    def _may_be_kept(self, id_: str, properties: Properties, content: Any) -> bool:
        """Tell whether a stranger may be a reply: its notice may be lost, but the queue takes anything."""
        if not message.is_reply(id_, properties, content) or len(self._strange) >= _MOST_STRANGE:
            return False
        self._strange.add(id_)
        return True

    def _drop_stranger(self, delivery: Delivery, id_: str) -> None:
        self._discard(delivery)
        self._dropped.count(f"correlation id {shorten(id_, 60)!r}")

    def _remember(self, id_: str, task: str, delivery: Delivery) -> None:
        if id_ in self._fetched:
            self._discard(delivery)
            return
        if len(self._notices) >= _MOST_OUT and not self._is_known(id_):
            self._drop_stranger(delivery, id_)  # we never have so many
            return
        self._keep(self._notices, id_, delivery)
        self._strange.discard(id_)
        if not self._is_known(id_):
            call: Call[Any] = Call(self, id_, task)
            call.move(Status.QUEUED)
            self._calls[id_] = call

    def _take_reply(self, id_: str, properties: Properties, content: Any, delivery: Delivery) -> None:
        if id_ in self._fetched:
            self._discard(delivery)
            return
        self._keep(self._replies, id_, delivery)
        if id_ in self._answered:
            return  # again, after a connection was lost
        call = self._calls.get(id_) or Call(self, id_, properties.type or "")
        self._drop(id_)
        self._answered[id_] = call
        message.take_reply(call, properties, content)

    def _keep(self, kept: dict[str, Delivery], id_: str, delivery: Delivery) -> None:
        """Keep the newer of two equal messages: the older one may be worn."""
        older, kept[id_] = kept.get(id_), delivery
        if older is not None:
            self._discard(older)

    def _let_go(self, call: Call[Any]) -> None:
        self._strange.discard(call.id)
        self._answered.pop(call.id, None)
        self._fetched[call.id] = call
        if len(self._fetched) > _FETCHED:
            self._fetched.popitem(last=False)
        for kept in (self._notices, self._replies):
            delivery = kept.pop(call.id, None)
            if delivery is not None:
                self._discard(delivery)

    def _discard(self, delivery: Delivery) -> None:
        self._subscription.settle(delivery)


def _confirmed(_publication: Publication, _fate: PublishResult, _reason: str) -> None:
    pass
