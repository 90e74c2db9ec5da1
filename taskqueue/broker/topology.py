"""The names and arguments of all queues of taskqueue."""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from taskqueue.messages.forwarding import new_id

if TYPE_CHECKING:
    from taskqueue.config import AmqpSettings

TASKQUEUE: Final = "taskqueue"
REJECTED_QUEUE: Final = "taskqueue_rejected"
FAILED_QUEUE: Final = "taskqueue_failed"
WORKER_PREFIX: Final = "worker_"
#: Prefix of internal queues' names; only taskqueue declares them.
INTERNAL_PREFIX: Final = "taskqueue_"
LEASE_PREFIX: Final = "taskqueue_lease_"
REPLIES_PREFIX: Final = "replies_"
#: The fanout exchange that tells every consumer which workitems are cancelled.
CANCEL: Final = "taskqueue_cancel"
#: The fanout exchange that takes the events of all daemons, and the stream that keeps them for monitors.
EVENTS: Final = "taskqueue_events"

#: The fanout exchange for commands to the pools of all hosts.
CONTROL: Final = "taskqueue_control"

#: Seconds that each delay queue holds a message; every delay is a sum of them.
DELAYS: Final = (0.25, 1, 5, 15, 60, 300, 900, 3600, 21600)

_LEASE_EXPIRES: Final = 10  # times to live, after which the unused queue of a lease expires

#: The first major version of RabbitMQ whose quorum queues have a delivery limit by default.
_LIMITED_DELIVERIES: Final = 4
#: Arguments for dead-lettering without loss: the queue keeps each message until the next queue has confirmed
#: it. Classic queues cannot do that: a message that they have just dead-lettered is lost if the broker is
#: killed (https://www.rabbitmq.com/docs/quorum-queues#activating-at-least-once-dead-lettering).
_SAFE_DEAD_LETTERING: Final = {
    "x-dead-letter-strategy": "at-least-once",
    "x-overflow": "reject-publish",
}


@dataclass(frozen=True, slots=True)
class Queue:
    """A durable queue. Shared ones have no arguments, so that foreign declarations agree with ours."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    has_exchange: bool = False  # whether a fanout exchange of the same name is bound to it
    fallback: Mapping[str, Any] | None = None  # arguments for a broker without queues of that type

    @property
    def is_internal(self) -> bool:
        """Whether only taskqueue declares it, so that its arguments contradict no other declaration."""
        return self.name.startswith(INTERNAL_PREFIX)


#: One message for each schedule, and messages to the scheduler that leads: the single active consumer.
SCHEDULES: Final = Queue("taskqueue_schedules", {"x-queue-type": "quorum", "x-single-active-consumer": True})

#: The log of the claims of unique work; its single active consumer keeps the claims. Publishers wait while it
#: is full: its consumer holds 65,535 messages at most, and has to see the newest of them before it begins.
CLAIMS: Final = Queue(
    "taskqueue_claims",
    {
        "x-queue-type": "quorum",
        "x-single-active-consumer": True,
        "x-max-length": 50_000,
        "x-overflow": "reject-publish",
    },
)
#: The changes of the gate's state, and who leads: the single active consumer.
GATE: Final = Queue("taskqueue_gate", {"x-queue-type": "quorum", "x-single-active-consumer": True})
#: The reports of consumers to the gate that leads. While the queue is full, its oldest reports are dropped:
#: the next whole report of the same consumer says the same, and until then its permits count.
GATE_REPORTS: Final = Queue(
    "taskqueue_gate_reports",
    {"x-max-length": 20_000, "x-max-length-bytes": 64 * 1024 * 1024, "x-overflow": "drop-head"},
)
#: Number of queues over which workflows are spread; each has a single active consumer.
SHARDS: Final = 4
FLOW_PREFIX: Final = "taskqueue_flow_"
_FLOW_ARGUMENTS: Final = {"x-queue-type": "quorum", "x-single-active-consumer": True}
#: The documents with the standing commands to all pools, of which the newest counts. The broker
#: removes whole segments.
CONTROL_REGISTER: Final = Queue(
    "taskqueue_control_register",
    {
        "x-queue-type": "stream",
        "x-max-length-bytes": 20_000_000,
        "x-stream-max-segment-size-bytes": 5_000_000,
    },
    fallback={},
)


def declared_arguments(queue: Queue, amqp: "AmqpSettings", broker_major: int) -> dict[str, Any]:
    """Return the arguments of a declaration: the queue's own, its type, and no delivery limit.

    A quorum queue of RabbitMQ 4 drops a message after 20 deliveries by default
    (https://www.rabbitmq.com/docs/quorum-queues#poison-message-handling). RabbitMQ 3 has no such default, and
    reads -1 as "drop at the first return".

    amqp -- has the type of internal queues and that of shared ones
    broker_major -- the broker's major version
    """
    arguments = dict(queue.arguments)
    kind = amqp.queue_type if queue.is_internal else amqp.shared_queue_type
    if kind != "default":
        arguments.setdefault("x-queue-type", kind)
    if arguments.get("x-queue-type") == "quorum":
        if "x-dead-letter-exchange" in arguments:
            arguments |= _SAFE_DEAD_LETTERING
        if broker_major >= _LIMITED_DELIVERIES:
            arguments["x-delivery-limit"] = -1
    return arguments


def worker_queue(worker_type: str) -> str:
    """Return the name of the queue of a worker type."""
    return WORKER_PREFIX + worker_type


def lane_queue(worker_type: str, number: int) -> str:
    """Return the name of a lane of a worker type. It has a colon, so that it is no worker type's queue."""
    return f"{WORKER_PREFIX}{worker_type}:{number}"


def type_of_lane(queue: str) -> str:
    """Return the worker type whose lane a queue is; "" if it is no lane."""
    name, colon, _ = queue.rpartition(":")
    return name.removeprefix(WORKER_PREFIX) if colon and name.startswith(WORKER_PREFIX) else ""


def shard_of(workflow: str) -> int:
    """Return the number of the shard that keeps a workflow.

    workflow -- its id, or any other text
    """
    return zlib.crc32(workflow.encode("utf-8", "replace")) % SHARDS


def flow_queue(shard: int) -> Queue:
    """Return the queue of the messages about the workflows of a shard."""
    return Queue(f"{FLOW_PREFIX}{shard}", _FLOW_ARGUMENTS)


def queue_named(name: str) -> Queue:
    """Return the queue of a returned message: that of a shard has arguments, others have none."""
    return Queue(name, _FLOW_ARGUMENTS if name.startswith(FLOW_PREFIX) else {})


def delay_queue(delay: float) -> Queue:
    """Return the delay queue for a delay in seconds: the longest that is not longer.

    A message is published to the delay queue's fanout exchange with the name of its target queue as routing
    key. When its time to live is over, the broker dead-letters it to the default exchange, where that key
    leads to the target queue. All messages in a delay queue have the same time to live, so none waits behind
    one that expires later.
    """
    seconds = max((step for step in DELAYS if step <= delay), default=DELAYS[0])
    arguments = {
        "x-queue-type": "quorum",
        "x-message-ttl": int(seconds * 1000),
        "x-dead-letter-exchange": "",
    }
    return Queue(f"taskqueue_delay_{seconds:g}", arguments, has_exchange=True)


def lease_queue(worker_type: str, timeout: float) -> Queue:
    """Return a new queue for one workitem, which returns to work after `timeout` seconds in it.

    A queue that expires drops its messages, so its expiry is many times as long.
    """
    milliseconds = int(timeout * 1000)
    arguments = {
        "x-message-ttl": milliseconds,
        "x-expires": _LEASE_EXPIRES * milliseconds,
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": worker_queue(worker_type),
    }
    return Queue(f"{LEASE_PREFIX}{worker_type}_{new_id()}", arguments)


def events_stream(max_age: float, max_size: int, segment_size: int) -> Queue:
    """Return the stream that keeps the events of all daemons; on a broker without streams, a queue.

    https://www.rabbitmq.com/docs/streams#declaring

    max_age -- seconds, at least one
    max_size -- bytes
    segment_size -- bytes
    """
    days, rest = divmod(int(max_age), 86400)
    arguments = {
        "x-queue-type": "stream",
        "x-max-age": f"{int(max_age)}s" if rest else f"{days}D",
        "x-max-length-bytes": max_size,
        "x-stream-max-segment-size-bytes": segment_size,
    }
    fallback = {"x-overflow": "drop-head", "x-max-length-bytes": max_size}
    return Queue(EVENTS, arguments, has_exchange=True, fallback=fallback)


def is_ours(queue: str) -> bool:
    """Tell whether a queue feeds taskqueue itself; results are never published to it."""
    return queue.startswith((TASKQUEUE, WORKER_PREFIX))


def is_text(queue: str) -> bool:
    """Tell whether a queue's name that came in a message is UTF-8; no other name can be published to."""
    return queue == queue.encode("utf-8", "replace").decode()


def reply_fault(reply_to: str) -> str:
    """Return why no reply is sent to the reply_to of a message; "" if one is."""
    if is_ours(reply_to):
        return "would be a loop"
    return "" if is_text(reply_to) else "is not UTF-8"


def is_temporary(reason: str) -> bool:
    """Tell whether an undeclarable queue exists on a node of a cluster that is down.

    reason -- the broker's text; https://www.rabbitmq.com/docs/clustering#overview-what-is-replicated
    """
    return reason.startswith("NOT_FOUND")
