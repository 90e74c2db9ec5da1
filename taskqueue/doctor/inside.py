"""The inside of a broker, as rabbitmqctl or the management API tells it: nodes, policies, settings."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from taskqueue.errors import ExitStatus, TaskqueueError

#: Keys of a queue whose value is a bound: of argument and policy, the lower one counts.
_BOUNDS: Final = (
    *("message-ttl", "expires", "max-length", "max-length-bytes", "delivery-limit", "consumer-timeout"),
)


class NotTold(TaskqueueError):
    """The inside of the broker cannot be looked at; the text says why."""

    status = ExitStatus.UNAVAILABLE


@dataclass(frozen=True, slots=True)
class BrokerNode:
    """A node of the broker.

    Args:
        name: as RabbitMQ has it.
        is_running: whether it is a part of the cluster now.
        version: of RabbitMQ; "" if it is not known.
        open_files: files and sockets that it has open, and how many it may have; None if they are not known.
    """

    name: str
    is_running: bool
    version: str = ""
    open_files: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class QueueSettings:
    """The type of a queue, and its arguments and policy.

    Args:
        kind: classic, quorum or stream; "" if it is not known.
        arguments: those of its declaration by their names without x-, and durable.
        policy: the effective definition of its policies; {} without one.
        policy_name: the names of its policies.
        is_whole: whether all arguments are known.
    """

    kind: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    policy: Mapping[str, Any] = field(default_factory=dict)
    policy_name: str = ""
    is_whole: bool = True

    def value(self, key: str, *, own: bool = True) -> Any:
        """Return the value of a key that is in force; None if there is none.

        own -- whether its arguments count, beside its policies
        """
        found = [self.policy.get(key), self.arguments.get(key) if own else None]
        numbers = [each for each in found if isinstance(each, int) and not isinstance(each, bool)]
        if key in _BOUNDS and numbers:
            # A negative limit of deliveries is none.
            return min((each for each in numbers if each >= 0), default=max(numbers))
        return found[0] if found[1] is None else found[1]

    def origin(self, key: str) -> str:
        """Return where the value of a key comes from, in words."""
        in_force = self.value(key)
        is_policy = (
            key in self.policy and self.policy[key] == in_force and self.arguments.get(key) != in_force
        )
        return f"by policy {self.policy_name}" if is_policy else f"by its argument x-{key}"


@dataclass(frozen=True, slots=True)
class Inside:
    """The inside of a broker.

    Args:
        source: who told it, in words.
        nodes: those of the cluster.
        queues: those of the virtual host whose names are taskqueue's, by name.
        alarms: resources that are short, in words.
        has_partitions: whether nodes have lost sight of each other, and have not come together again.
        partition_handling: the setting cluster_partition_handling; None if it is not known.
        consumer_timeout: seconds after which a delivery that is not acknowledged returns to its queue;
            infinity if there is no limit, None if it is not known.
        users: their names, if the broker alone knows them; None if they are not known.
    """

    source: str
    nodes: tuple[BrokerNode, ...] = ()
    queues: Mapping[str, QueueSettings] = field(default_factory=dict)
    alarms: tuple[str, ...] = ()
    has_partitions: bool = False
    partition_handling: str | None = None
    consumer_timeout: float | None = None
    users: frozenset[str] | None = None

    @property
    def is_cluster(self) -> bool:
        """Whether the broker has several nodes."""
        return len(self.nodes) > 1
