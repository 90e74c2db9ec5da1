"""Times that contradict each other: the broker's limits and the groups' options, and the clocks of hosts."""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from taskqueue.broker.topology import worker_queue
from taskqueue.config import GroupSettings
from taskqueue.doctor.finding import Finding, Level
from taskqueue.doctor.inside import Inside

_FAR: Final = 2.0  # seconds between two clocks; an event may be late by about one


@dataclass(frozen=True, slots=True)
class Heard:
    """A process that was heard of through its events.

    Args:
        host: its host.
        name: its kind and group, in words.
        version: of taskqueue; "" if it has not told.
        ahead: seconds by which its host's clock is ahead of ours, at least; negative if it is behind, by at
            most so much.
        user: its user at the broker; "" if it has not told.
    """

    host: str
    name: str
    version: str
    ahead: float
    user: str = ""


# --- the broker's limit on deliveries ---


def judge_deliveries(groups: Iterable[GroupSettings], inside: Inside) -> Iterator[Finding]:
    """Yield groups whose workitems the broker may give to another worker while they run."""
    for group in groups:
        limit = _limit(group, inside)
        longest = group.timeout + group.timeout_grace if group.timeout else math.inf
        if group.workers and limit < longest and group.lease_after > limit / 2:
            text = (
                f"group {group.name} leases workitems after {group.lease_after:g} s, and the broker takes "
                f"deliveries back after {limit:g} s (consumer_timeout)"
            )
            advice = f"set lease_after to less than {limit / 2:g}, or raise consumer_timeout in rabbitmq.conf"
            yield Finding(Level.WARNING, "times", "consumer-timeout", text, advice)


def _limit(group: GroupSettings, inside: Inside) -> float:
    """Return the seconds after which the broker takes a delivery of a group back; infinity for never."""
    limits = [inside.consumer_timeout] if inside.consumer_timeout is not None else []
    queue = inside.queues.get(worker_queue(group.worker_type))
    own = queue.value("consumer-timeout") if queue is not None else None
    if isinstance(own, int):
        limits.append(own / 1000)
    return min(limits, default=math.inf)


# --- other hosts ---


def judge_hosts(heard: Iterable[Heard], host: str, version: str) -> Iterator[Finding]:
    """Yield hosts whose clocks or versions differ.

    Args:
        heard: the processes of all hosts.
        host: the name of this one.
        version: of taskqueue here.
    """
    told = list(heard)
    yield from _clocks(told, host)
    yield from _versions(told, host, version)


def _clocks(heard: Iterable[Heard], host: str) -> Iterator[Finding]:
    nearest: dict[str, float] = {}
    for each in heard:  # what was least late tells most
        nearest[each.host] = max(each.ahead, nearest.get(each.host, -math.inf))
    for other, ahead in sorted(nearest.items()):
        if other != host and abs(ahead) > _FAR:
            where = "ahead of" if ahead > 0 else "behind"
            text = f"the clock of host {other} is {abs(ahead):.0f} s {where} this one's"
            advice = "have NTP set the clocks of all hosts (systemd-timesyncd or chrony)"
            yield Finding(Level.WARNING, "times", "clock", text, advice)


def _versions(heard: Iterable[Heard], host: str, version: str) -> Iterator[Finding]:
    by_version: defaultdict[str, set[str]] = defaultdict(set)
    for each in heard:
        if each.version and each.host == host and each.version != version:
            text = f"{each.name} of this host runs {each.version}, and {version} is installed"
            yield Finding(Level.WARNING, "times", "old-process", text, "restart its daemon")
        elif each.version:
            by_version[each.version].add(each.host)
    by_version[version].add(host)
    if len(by_version) > 1:
        text = f"hosts run different versions of taskqueue: {_listed(by_version)}"
        yield Finding(Level.WARNING, "times", "versions", text, "install the same version on all hosts")


def _listed(by_version: Mapping[str, set[str]]) -> str:
    return "; ".join(
        f"{version} on {', '.join(sorted(hosts))}" for version, hosts in sorted(by_version.items())
    )
