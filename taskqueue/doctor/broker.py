"""Whether the broker can be reached and is well: version, alarms, nodes, partitions."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from taskqueue.doctor.finding import Finding, Level
from taskqueue.doctor.inside import BrokerNode, Inside
from taskqueue.errors import BrokerRefused, TaskqueueError

_OLDEST: Final = (3, 10)  # release of RabbitMQ that taskqueue is tested with
_FULL: Final = 0.9  # part of the files that a node may have open
_LEAST_NODES: Final = 3  # of a cluster that may lose one


@dataclass(frozen=True, slots=True)
class BrokerFacts:
    """What is known of the broker.

    Args:
        address: its URL without the password.
        trouble: why there is no connection; None if there is one.
        product: its name.
        version: of RabbitMQ, as it tells it.
        has_alarm: whether it has told of an alarm.
        inside: its inside; None if that could not be looked at.
    """

    address: str
    trouble: TaskqueueError | None = None
    product: str = "RabbitMQ"
    version: str = ""
    has_alarm: bool = False
    inside: Inside | None = None


def judge(facts: BrokerFacts) -> Iterator[Finding]:
    """Yield what is wrong with the broker."""
    if facts.trouble is not None:
        yield _unreachable(facts.address, facts.trouble)
        return
    yield from _version(facts)
    yield from _alarms(facts)
    if facts.inside is not None:
        yield from _nodes(facts.inside)
        yield from _partitions(facts.inside)


def numbers(version: str) -> tuple[int, ...]:
    """Return the numbers of a version as "3.10.8"; () if it has none."""
    found = re.match(r"\d+(\.\d+)*", version)
    return tuple(map(int, found[0].split("."))) if found else ()


def _finding(level: Level, name: str, text: str, advice: str) -> Finding:
    return Finding(level, "broker", name, text, advice)


def _unreachable(address: str, trouble: TaskqueueError) -> Finding:
    if isinstance(trouble, BrokerRefused):
        advice = "correct user, password or vhost in section [amqp], or make them with rabbitmqctl"
        return _finding(Level.ERROR, "broker-refuses", str(trouble), f"{advice} (add_user, set_permissions)")
    advice = f"start RabbitMQ there, or correct the address in section [amqp], which is now {address}"
    return _finding(Level.ERROR, "broker-unreachable", str(trouble), advice)


def _version(facts: BrokerFacts) -> Iterator[Finding]:
    if facts.product != "RabbitMQ":
        text = f"the broker is {facts.product} {facts.version}, with which taskqueue is not tested"
        yield _finding(Level.WARNING, "other-broker", text, "use RabbitMQ")
    elif numbers(facts.version)[:2] < _OLDEST:
        oldest = ".".join(map(str, _OLDEST))
        text = f"the broker is RabbitMQ {facts.version or 'of unknown version'}, and taskqueue needs {oldest}"
        yield _finding(Level.ERROR, "old-broker", text, "upgrade RabbitMQ")


def _alarms(facts: BrokerFacts) -> Iterator[Finding]:
    told = facts.inside.alarms if facts.inside is not None else ()
    if facts.has_alarm:  # the management API may tell of an alarm for some seconds after its end
        what = f": {', '.join(told)}" if told else ""
        text = f"the broker has an alarm and takes no messages{what}"
        advice = "free memory or disk space on its host; `rabbitmq-diagnostics alarms` names what is short"
        yield _finding(Level.ERROR, "alarm", text, advice)


def _nodes(inside: Inside) -> Iterator[Finding]:
    for node in inside.nodes:
        if not node.is_running:
            text, advice = f"node {node.name} of the broker's cluster is down", "start RabbitMQ on its host"
            yield _finding(Level.ERROR, "node-down", text, advice)
        yield from _open_files(node)
    versions = {node.version for node in inside.nodes if node.version}
    if len(versions) > 1:
        text = f"the nodes of the broker's cluster have different versions: {', '.join(sorted(versions))}"
        yield _finding(Level.WARNING, "node-versions", text, "finish the upgrade of its nodes")
    if inside.is_cluster and len(inside.nodes) < _LEAST_NODES:
        text = f"the broker's cluster has {len(inside.nodes)} nodes: without one, quorum queues stand still"
        yield _finding(Level.WARNING, "two-nodes", text, "add a third node")


def _open_files(node: BrokerNode) -> Iterator[Finding]:
    used, most = node.open_files or (0, 0)
    if used > _FULL * most:
        text = f"node {node.name} of the broker has {used} of {most} files and sockets open"
        advice = "raise LimitNOFILE in RabbitMQ's unit, or `ulimit -n` in /etc/default/rabbitmq-server"
        yield _finding(Level.ERROR, "broker-files", text, advice)


def _partitions(inside: Inside) -> Iterator[Finding]:
    if inside.has_partitions:
        text = "the broker's cluster is split: its nodes have lost sight of each other"
        advice = "restart the nodes of the smaller part (https://www.rabbitmq.com/docs/partitions)"
        yield _finding(Level.ERROR, "partition", text, advice)
    if inside.is_cluster and inside.partition_handling == "ignore":
        text = "cluster_partition_handling is ignore: a split of the network loses messages of classic queues"
        advice = "set cluster_partition_handling = pause_minority in rabbitmq.conf of each node"
        yield _finding(Level.WARNING, "partition-handling", text, advice)
