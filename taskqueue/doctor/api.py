"""The inside of the broker as its management API tells it."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final
from urllib.parse import quote, urlencode

from taskqueue.config import AmqpSettings
from taskqueue.doctor.finding import Unseen
from taskqueue.doctor.inside import BrokerNode, Inside, NotTold, QueueSettings
from taskqueue.monitor import management

#: Names of queues that are taskqueue's.
OURS: Final = "^(taskqueue|worker_)"
_MOST: Final = 500  # queues of a page; the API's own limit
_MOST_PAGES: Final = 20
_TOLD_BY_AMQP: Final = ("cluster_partition_handling", "consumer_timeout")
_SOURCE: Final = "the management API"
_NEEDS_CTL: Final = "only rabbitmqctl tells it: run as root on the broker's host"


def look(url: str, amqp: AmqpSettings, cluster: str) -> Inside:
    """Ask the management API.

    Args:
        url: of the API, without a path.
        amqp: has user, password and virtual host.
        cluster: the name of the broker's cluster, as AMQP has told it.

    Raises NotTold.
    """
    try:
        return _look(lambda path: management.get(url, amqp, path), amqp.vhost, cluster)
    except management.FAULTS as error:
        raise NotTold(f"the management API at {url}: {management.reason(error)}") from None


def unseen() -> Iterator[Unseen]:
    """Yield what the API does not tell."""
    yield Unseen("the settings " + " and ".join(_TOLD_BY_AMQP), _NEEDS_CTL)


def _look(get: Callable[[str], Any], vhost: str, cluster: str) -> Inside:
    found = str(get("overview")["cluster_name"])
    if found != cluster:
        raise NotTold(
            f"the management API is that of the cluster {found}, and AMQP reaches the cluster {cluster}"
        )
    nodes = get("nodes")
    return Inside(
        source=_SOURCE,
        nodes=tuple(_node(node) for node in nodes),
        queues=dict(_queues(get, vhost)),
        alarms=tuple(_alarms(nodes)),
        has_partitions=any(node.get("partitions") for node in nodes),
    )


def _node(node: Mapping[str, Any]) -> BrokerNode:
    applications = {each["name"]: str(each["version"]) for each in node.get("applications") or ()}
    files = node.get("fd_used"), node.get("fd_total")
    are_known = all(isinstance(number, int) and number > 0 for number in files)
    return BrokerNode(
        str(node["name"]),
        node.get("running") is True,
        applications.get("rabbit", ""),
        files if are_known else None,  # type: ignore[arg-type] # they are numbers
    )


def _alarms(nodes: Any) -> Iterator[str]:
    for node in nodes:
        for key, what in (("mem_alarm", "memory"), ("disk_free_alarm", "disk space")):
            if node.get(key):
                yield f"{what} of {node['name']}"


def _queues(get: Callable[[str], Any], vhost: str) -> Iterator[tuple[str, QueueSettings]]:
    for page in range(1, _MOST_PAGES + 1):
        query = urlencode({"page": page, "page_size": _MOST, "name": OURS, "use_regex": "true"})
        answer = get(f"queues/{quote(vhost, safe='')}?{query}")
        for queue in answer["items"]:
            yield str(queue["name"]), _settings(queue)
        if page >= answer.get("page_count", 0):
            return


def _settings(queue: Mapping[str, Any]) -> QueueSettings:
    arguments = {key.removeprefix("x-"): value for key, value in (queue.get("arguments") or {}).items()}
    names = [queue.get(key) for key in ("policy", "operator_policy")]
    return QueueSettings(
        kind=str(queue.get("type") or arguments.get("queue-type") or "classic"),
        arguments=arguments | {"durable": queue.get("durable", True)},
        policy=dict(queue.get("effective_policy_definition") or {}),
        policy_name=" and ".join(str(name) for name in names if name),
    )
