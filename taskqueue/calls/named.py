"""The engine of a named client, whose calls outlive it: their ids and results are kept in a queue.

The queue `replies_<name>` is the store. A notice of the submission is published to it before the request, and
the reply arrives in it. Both are acknowledged when the result is fetched. A later client of the same name
receives all of them again; the notices distinguish replies to its calls from other messages.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final

from taskqueue.amqp.properties import Properties
from taskqueue.broker.publisher import Publication
from taskqueue.broker.subscription import Delivery, Subscription
from taskqueue.broker.topology import REPLIES_PREFIX
from taskqueue.calls import message
from taskqueue.calls.call import Call, Status
from taskqueue.calls.engine import Engine
from taskqueue.calls.task import checked_name
from taskqueue.config import AmqpSettings
from taskqueue.errors import AlreadyRunning, BrokerUnavailable
from taskqueue.messages.content import JSON
from taskqueue.messages.forwarding import is_near_delivery_limit, new_id, renewed
from taskqueue.messages.options import Options
from taskqueue.process.logs import Log, Tally
from taskqueue.texts import shorten

_MOST_OPEN: Final = 30_000  # calls that are pending or whose results were not fetched
_MOST_UNANNOUNCED: Final = 5_000  # replies that are kept although they have no notice
_PREFETCH: Final = 65_500  # notices, replies and unannounced replies; there is always room for more
_FETCHED: Final = 1000  # calls that are remembered after their results were fetched
_IN_USE_TIMEOUT: Final = 3.0  # seconds until the broker has noticed the death of an earlier client


class NamedEngine(Engine):
    """An engine that keeps its calls and their replies in a queue of its name."""

    def __init__(
        self, amqp: AmqpSettings, *, name: str, expires: float, direct: bool, broker_timeout: float
    ) -> None:
        """Prepare; `start` connects. Raises TaskError for a name that cannot be part of a queue's name.

        name -- distinguishes this client's calls from those of other clients
        expires -- seconds that calls are kept while no client of this name is connected
        """
        self._queue = REPLIES_PREFIX + checked_name(name, "client name")
        super().__init__(amqp, direct=direct, broker_timeout=broker_timeout)
        self._name = name
        self._since = time.monotonic()
        self._notices: dict[str, Delivery] = {}  # by the call's id
        self._replies: dict[str, Delivery] = {}  # by the call's id
        self._answered: dict[str, Call[Any]] = {}  # calls with a reply that was not fetched
        self._fetched: OrderedDict[str, Call[Any]] = OrderedDict()
        self._unannounced: set[str] = set()  # ids of replies that have no notice
        self._dropped = Tally(
            Log("client"), f"%d messages in {self._queue} that are not replies were dropped; the last: %s"
        )
        self._loaded = threading.Event()  # set once all messages from earlier clients have been received
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
            on_in_use=self._queue_in_use,
        )

    # --- for other threads ---

    def send(self, call: Call[Any], body: bytes, options: Options, *, notify: bool) -> None:
        """Send a call. Raises BrokerUnavailable if too many are pending or not fetched."""
        if len(self._calls) + len(self._answered) - len(self._unannounced) >= _MOST_OPEN:
            raise BrokerUnavailable(f"{_MOST_OPEN} calls are pending or not fetched; fetch results first")
        super().send(call, body, options, notify=notify)

    def find(self, id_: str) -> Call[Any] | None:
        """Return a call of this name, or None. Raises BrokerUnavailable if the queue is not read in time."""
        if not self._loaded.wait(self._broker_timeout):
            raise self._unavailable()
        return self._calls.get(id_) or self._answered.get(id_) or self._fetched.get(id_)

    def fetched(self, call: Call[Any]) -> None:
        """Acknowledge the messages of a call whose result the user has fetched."""
        self.do(lambda: self._release(call))

    # --- the thread ---

    def _connect(self) -> None:
        self._session.open()
        self._consuming.open()
        self._subscription.resume()

    def _close(self, then: Callable[[], None]) -> None:
        self._dropped.tell()
        self._subscription.flush()
        self._consuming.close(lambda: self._session.close(then))

    def _abandon_sessions(self) -> None:
        self._consuming.abandon()
        super()._abandon_sessions()

    def session_down(self) -> None:
        """Keep pending calls: their replies come to a queue that outlives the connection."""

    @property
    def _reply_to(self) -> str:
        return self._queue

    @property
    def _may_send(self) -> bool:
        return self._loaded.is_set()

    def _publish(self, call: Call[Any], publication: Publication) -> None:
        """Publish the notice, then the request: one channel keeps their order."""
        properties = Properties(
            content_type=JSON, delivery_mode=2, correlation_id=call.id, message_id=new_id()
        )
        body = message.submitted_body(call.id, call.task)
        notice = Publication(self._queue, properties.encode(), body, declares=False)
        self._outbound.send(notice, lambda *_: None)
        super()._publish(call, publication)

    def _lost(self) -> None:
        """Forget the deliveries: the broker redelivers them."""
        self._notices.clear()
        self._replies.clear()

    def _consumes(self) -> None:
        self._subscription.after_deliveries(self._load)

    def _load(self) -> None:
        if not self._loaded.is_set():
            self._loaded.set()
            for sent in tuple(self._sending.values()):
                self._publish(sent.call, sent.publication)

    def _queue_in_use(self) -> None:
        """Fail all calls if another client still consumes the queue after 3 s, so that it was not killed."""
        if not self._loaded.is_set() and time.monotonic() - self._since > _IN_USE_TIMEOUT:
            self._broker_error = AlreadyRunning(f"another client with the name {self._name!r} is connected")
            self._fail_all(self._broker_error)

    def _deliver(self, delivery: Delivery) -> None:
        """Process a client's own notice, a consumer's notice, or a reply."""
        properties, content = message.decode(delivery.properties, delivery.body)
        id_ = properties.correlation_id or ""
        if delivery.redelivered and is_near_delivery_limit(properties):
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
            self._drop_message(delivery, id_)

    def _renew(self, properties: Properties, delivery: Delivery) -> None:
        """Publish a copy of a message near the delivery limit to the queue; the copy will replace it here."""
        fresh = renewed(properties, self._session.amqp.user).encode()
        self._outbound.publisher.publish(Publication(self._queue, fresh, delivery.body))

    def _is_known(self, id_: str) -> bool:
        return any(id_ in calls for calls in (self._calls, self._answered, self._fetched))

    def _may_be_kept(self, id_: str, properties: Properties, content: Any) -> bool:
        """Return whether to keep a message without a notice: it may be a reply whose notice was lost."""
        is_reply = bool(id_) and message.is_reply(properties, content)
        if not is_reply or len(self._unannounced) >= _MOST_UNANNOUNCED:
            return False
        self._unannounced.add(id_)
        return True

    def _drop_message(self, delivery: Delivery, id_: str) -> None:
        self._discard(delivery)
        self._dropped.count(f"correlation id {shorten(id_, 60)!r}")

    def _remember(self, id_: str, task: str, delivery: Delivery) -> None:
        if id_ in self._fetched:
            self._discard(delivery)
            return
        if len(self._notices) >= _MOST_OPEN and not self._is_known(id_):
            self._drop_message(delivery, id_)  # more than clients of ours ever have
            return
        self._keep(self._notices, id_, delivery)
        self._unannounced.discard(id_)
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
            return  # redelivered after a lost connection
        call = self._calls.get(id_) or Call(self, id_, properties.type or "")
        self._drop(id_)
        self._answered[id_] = call
        message.take_reply(call, properties, content)

    def _keep(self, kept: dict[str, Delivery], id_: str, delivery: Delivery) -> None:
        """Keep the newer of two equal messages: the older one may be near the delivery limit."""
        older, kept[id_] = kept.get(id_), delivery
        if older is not None:
            self._discard(older)

    def _release(self, call: Call[Any]) -> None:
        self._unannounced.discard(call.id)
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
