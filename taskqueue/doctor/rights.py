"""Whether the broker's user has the rights that the daemons of this host need."""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from taskqueue.broker.probe import CONFIGURE, DEFAULT_EXCHANGE, READ, SERVER_NAMED, WRITE, Right
from taskqueue.broker.topology import (
    CANCEL,
    CLAIMS,
    CONTROL,
    CONTROL_REGISTER,
    EVENTS,
    FAILED_QUEUE,
    GATE,
    GATE_REPORTS,
    LEASE_PREFIX,
    REJECTED_QUEUE,
    SCHEDULES,
    SHARDS,
    TASKQUEUE,
    delay_queue,
    flow_queue,
    lane_queue,
    worker_queue,
)
from taskqueue.config import Settings
from taskqueue.control import key
from taskqueue.doctor.finding import Finding, Level

DISPATCHER, WORKERPOOL = "dispatcher", "workerpool"
_ADVICE: Final = (
    "give the user the right with `rabbitmqctl set_permissions`; docs/operations.md has the patterns in the "
    "section The broker's users"
)
_ANY: Final = "doctor"  # stands for the rest of a name


@dataclass(frozen=True, slots=True)
class Need:
    """A right that a daemon needs.

    Args:
        daemon: DISPATCHER or WORKERPOOL.
        right: the right.
        level: the weight of its absence.
        consequence: of its absence.
    """

    daemon: str
    right: Right
    level: Level
    consequence: str


def needs(settings: Settings, daemons: Collection[str]) -> tuple[Need, ...]:
    """Return the rights that daemons of a configuration need, beside that to declare missing queues."""
    found: list[Need] = []
    if DISPATCHER in daemons:
        found += _of_dispatchers(settings)
    if WORKERPOOL in daemons:
        found += _of_pools(settings)
    return tuple(found)


def _need(daemon: str, kind: str, name: str, level: Level, consequence: str) -> Need:
    return Need(daemon, Right(kind, name), level, consequence)


def _of_dispatchers(settings: Settings) -> Iterator[Need]:
    def need(kind: str, name: str, level: Level, consequence: str) -> Need:
        return _need(DISPATCHER, kind, name, level, consequence)

    answers = "unique workitems and those of schedules wait"
    yield need(READ, TASKQUEUE, Level.ERROR, "dispatchers take no workitems")
    yield need(WRITE, DEFAULT_EXCHANGE, Level.ERROR, "no workitem can be routed")
    yield need(WRITE, delay_queue(1).name, Level.ERROR, "workitems with a delay cannot wait")
    yield need(READ, SCHEDULES.name, Level.WARNING, "this host fires no schedules")
    yield need(READ, CLAIMS.name, Level.WARNING, answers)
    yield need(CONFIGURE, SERVER_NAMED, Level.WARNING, answers)
    yield need(READ, f"{SERVER_NAMED}{_ANY}", Level.WARNING, answers)
    yield need(WRITE, EVENTS, Level.WARNING, "the monitor's record lacks what dispatchers do")
    if settings.limits:
        for queue in (GATE.name, GATE_REPORTS.name):
            yield need(READ, queue, Level.WARNING, "this host grants no permits for limits")
    if settings.flow.is_wanted:
        for shard in range(SHARDS):
            yield need(READ, flow_queue(shard).name, Level.WARNING, "this host keeps no workflows")


def _of_pools(settings: Settings) -> Iterator[Need]:
    def need(kind: str, name: str, level: Level, consequence: str) -> Need:
        return _need(WORKERPOOL, kind, name, level, consequence)

    lease = LEASE_PREFIX + _ANY
    uncancelled, unleased = "calls cannot be cancelled", "long workitems have no lease"
    yield need(WRITE, DEFAULT_EXCHANGE, Level.ERROR, "results cannot be published, and no work is taken")
    yield need(WRITE, delay_queue(1).name, Level.ERROR, "failed workitems cannot be retried")
    for group in settings.groups:
        if group.workers:
            queue = worker_queue(group.worker_type)
            yield need(READ, queue, Level.ERROR, f"group {group.name} gets no work")
            if group.lanes:
                yield need(
                    READ, lane_queue(group.worker_type, 0), Level.ERROR, f"group {group.name} gets no work"
                )
    for kind, name in ((CONFIGURE, SERVER_NAMED), (WRITE, f"{SERVER_NAMED}{_ANY}"), (READ, CANCEL)):
        yield need(kind, name, Level.WARNING, uncancelled)
    yield need(READ, f"{SERVER_NAMED}{_ANY}", Level.WARNING, uncancelled)
    for kind in (CONFIGURE, READ):
        yield need(kind, lease, Level.WARNING, unleased)
    yield need(WRITE, EVENTS, Level.WARNING, "the monitor's record lacks what workers do")
    if key.find(settings.path, settings.workerpool) is not None:
        for name in (CONTROL, CONTROL_REGISTER.name):
            yield need(READ, name, Level.WARNING, "this host takes no commands of other hosts")


def queues_needed(settings: Settings, daemons: Collection[str]) -> tuple[str, ...]:
    """Return the queues that the daemons declare when they are missing."""
    found = [TASKQUEUE, REJECTED_QUEUE, FAILED_QUEUE]
    if WORKERPOOL in daemons:
        for group in settings.groups:
            if group.workers:
                found.append(worker_queue(group.worker_type))
                found += [group.results_routing_key] if group.report_results else []
    return tuple(dict.fromkeys(found))


def judge(
    user: str, needed: Iterable[Need], lacking: Collection[Right], missing: Iterable[str]
) -> Iterator[Finding]:
    """Yield the rights that are lacking.

    Args:
        user: the broker's user.
        needed: what the daemons need.
        lacking: the rights that the user does not have.
        missing: queues that do not exist.
    """
    for need in needed:
        if need.right in lacking:
            text = (
                f"user {user!r} lacks the right to {need.right.kind} {_shown(need.right.name)}, which the "
                f"{need.daemon} needs: {need.consequence}"
            )
            yield Finding(need.level, "rights", "right-missing", text, _ADVICE)
    for queue in missing:
        if Right(CONFIGURE, queue) in lacking:
            text = f"queue {queue} does not exist, and user {user!r} lacks the right to configure it"
            advice = (
                "start the daemons once as a user with all rights, or declare the queue yourself, durable"
            )
            yield Finding(Level.ERROR, "rights", "queue-missing", text, advice)


def _shown(name: str) -> str:
    """Return a name, with * for its part that is different each time."""
    for prefix in (SERVER_NAMED, LEASE_PREFIX):
        if name.startswith(prefix):
            return f"{prefix}*"
    return name
