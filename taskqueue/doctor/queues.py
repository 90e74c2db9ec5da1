"""What is wrong with queues: nobody takes from them, or their arguments and policies lose work."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from taskqueue.broker.errands import QueueSize
from taskqueue.broker.topology import EVENTS, FAILED_QUEUE, REJECTED_QUEUE, TASKQUEUE, WORKER_PREFIX
from taskqueue.doctor.finding import Finding, Level
from taskqueue.doctor.inside import QueueSettings
from taskqueue.texts import counted

MANY: Final = 100  # results that nobody takes, and dead letters, from which on they are a warning
IDLE_AFTER: Final = 14 * 86400.0  # seconds without work after which a worker type is told
_NO_LIMIT_MAJOR: Final = 4  # the first major version of RabbitMQ whose quorum queues have a delivery limit
_DEFAULT_LIMIT: Final = 20  # deliveries, in those versions
_LETTERS: Final = {FAILED_QUEUE: "failed", REJECTED_QUEUE: "rejected"}


@dataclass(frozen=True, slots=True)
class QueueFacts:
    """A queue of taskqueue's, or one that takes results.

    Args:
        size: its ready messages and consumers; None if it does not exist.
        settings: its type, arguments and policy; None if they are not known.
    """

    size: QueueSize | None
    settings: QueueSettings | None = None


@dataclass(frozen=True, slots=True)
class QueuesFacts:
    """What is known of all queues.

    Args:
        queues: by name; those that the user must not see are absent.
        results: the names of those that take results.
        broker_major: the major version of RabbitMQ; 0 if it is not known.
        is_cluster: whether the broker has several nodes.
        is_private: whether it is the private broker of this user.
        new_letters: workitems that failed or were rejected within a day, by queue; absent if it is not known.
        idle_since: when each worker type last had work, or when the record begins; of types that are idle.
    """

    queues: Mapping[str, QueueFacts]
    results: frozenset[str] = frozenset()
    broker_major: int = 0
    is_cluster: bool = False
    is_private: bool = False
    new_letters: Mapping[str, int] = field(default_factory=dict)
    idle_since: Mapping[str, float] = field(default_factory=dict)


def judge(facts: QueuesFacts, now: float) -> Iterator[Finding]:
    """Yield what is wrong with queues; now -- seconds since 1970."""
    yield from _dispatchers(facts)
    yield from _unserved(facts)
    yield from _letters(facts)
    yield from _results(facts)
    yield from _idle(facts, now)
    for name, queue in facts.queues.items():
        if queue.settings is not None and name != EVENTS:
            yield from _of_settings(name, queue.settings, facts)


def _finding(level: Level, name: str, text: str, advice: str) -> Finding:
    return Finding(level, "queues", name, text, advice)


# --- who takes ---


def _dispatchers(facts: QueuesFacts) -> Iterator[Finding]:
    queue = facts.queues.get(TASKQUEUE)
    if queue is None:
        return
    consumers = queue.size.consumers if queue.size is not None else 0
    if not consumers:
        waiting = queue.size.messages if queue.size is not None else 0
        wait = (
            f", and {counted(waiting, 'workitem waits', 'workitems wait')} in {TASKQUEUE}" if waiting else ""
        )
        text, advice = f"no dispatcher runs{wait}", "start one: `taskqueue dispatcher`, or its service"
        yield _finding(Level.ERROR, "no-dispatcher", text, advice)
    elif consumers == 1 and not facts.is_private:
        text = "a single dispatcher process runs: while it is down, no workitem reaches a worker"
        advice = "start a dispatcher on a second host"
        yield _finding(Level.WARNING, "one-dispatcher", text, advice)


def _unserved(facts: QueuesFacts) -> Iterator[Finding]:
    for name, queue in facts.queues.items():
        size = queue.size
        if name.startswith(WORKER_PREFIX) and size is not None and size.messages and not size.consumers:
            wait = counted(size.messages, "workitem waits", "workitems wait")
            advice = (
                "start a pool that has the plugin, or look at its log; `taskqueue plugins` on its host tells "
                "whether the plugin can be imported"
            )
            yield _finding(Level.WARNING, "no-consumer", f"{wait} in {name}, and no pool takes them", advice)


def _letters(facts: QueuesFacts) -> Iterator[Finding]:
    for name, command in _LETTERS.items():
        queue = facts.queues.get(name)
        count = queue.size.messages if queue is not None and queue.size is not None else 0
        new = facts.new_letters.get(name, 0)
        if not count:
            continue
        is_growing = min(new, count)
        text = f"{name} has {counted(count, 'message')}"
        text += f", {is_growing} of them from the last 24 hours" if is_growing else ""
        advice = f"`taskqueue {command} list` tells why; then retry them, or purge them"
        level = Level.WARNING if is_growing or count >= MANY else Level.ADVICE
        yield _finding(level, "dead-letters", text, advice)


def _results(facts: QueuesFacts) -> Iterator[Finding]:
    for name in sorted(facts.results):
        queue = facts.queues.get(name)
        size = queue.size if queue is not None else None
        if size is not None and size.messages >= MANY and not size.consumers:
            text = (
                f"{counted(size.messages, 'result waits', 'results wait')} in {name}, and nobody takes them"
            )
            advice = "consume the queue, or set report_results: no in the groups whose results nobody needs"
            yield _finding(Level.WARNING, "unread-results", text, advice)


def _idle(facts: QueuesFacts, now: float) -> Iterator[Finding]:
    for worker_type, since in sorted(facts.idle_since.items()):
        queue = facts.queues.get(f"{WORKER_PREFIX}{worker_type}")
        is_served = queue is not None and queue.size is not None and queue.size.consumers
        if is_served and now - since >= IDLE_AFTER:
            days = (now - since) / 86400
            text = f"worker type {worker_type} is served, and has had no work for {days:.0f} days"
            advice = "set its workers to 0, or uninstall its plugin, unless it is to stay ready"
            yield _finding(Level.ADVICE, "idle-type", text, advice)


# --- arguments and policies ---


def _of_settings(name: str, settings: QueueSettings, facts: QueuesFacts) -> Iterator[Finding]:
    if name in facts.results:  # how long results are kept is up to who reads them
        return
    # The arguments of other queues of ours are meant: such as the time to live of delay queues.
    own = name in (TASKQUEUE, *_LETTERS) or name.startswith(WORKER_PREFIX)
    yield from _losses(name, settings, own=own)
    yield from _delivery_limit(name, settings, facts.broker_major, own=own)
    if own and settings.arguments.get("single-active-consumer") is True:
        text = f"queue {name} has a single active consumer: one process takes from it, all others wait"
        yield _finding(
            Level.WARNING, "single-consumer", text, f"declare {name} again without x-single-active-consumer"
        )
    if facts.is_cluster and settings.kind == "classic":
        text = f"queue {name} is a classic queue of a cluster: while its node is down, nobody can use it"
        advice = (
            "set queue_type and shared_queue_type to quorum, stop all programs that use the queue, empty it "
            "and delete it: it is declared again"
        )
        yield _finding(Level.WARNING, "classic-queue", text, advice)


def _losses(name: str, settings: QueueSettings, *, own: bool) -> Iterator[Finding]:
    def found(key: str, kind: str, effect: str) -> Finding:
        text = f"queue {name} {effect} ({settings.origin(key)})"
        return _finding(Level.ERROR, kind, text, _mend(name, settings, key))

    ttl, expires = settings.value("message-ttl", own=own), settings.value("expires", own=own)
    goes_on = settings.value("dead-letter-exchange", own=own) is not None
    if isinstance(ttl, int):
        effect = "moves messages elsewhere" if goes_on else "drops messages"
        yield found("message-ttl", "message-ttl", f"{effect} that are older than {ttl / 1000:g} s")
    if isinstance(expires, int):
        yield found(
            "expires", "queue-expires", f"is deleted with its messages after {expires / 1000:g} s without use"
        )
    for key, unit in (("max-length", "messages"), ("max-length-bytes", "bytes")):
        most = settings.value(key, own=own)
        if isinstance(most, int) and settings.value("overflow") not in (
            "reject-publish",
            "reject-publish-dlx",
        ):
            yield found(key, "max-length", f"drops its oldest messages beyond {most} {unit}")
    if settings.arguments.get("durable") in (False, "false"):
        text = f"queue {name} is not durable: it is gone when the broker restarts"
        yield _finding(Level.ERROR, "not-durable", text, f"delete {name}, and declare it again as durable")


def _delivery_limit(name: str, settings: QueueSettings, broker_major: int, *, own: bool) -> Iterator[Finding]:
    if settings.kind != "quorum":
        return
    limit = settings.value("delivery-limit", own=own)
    if limit is None and own and settings.is_whole and broker_major >= _NO_LIMIT_MAJOR:
        default = f"{_DEFAULT_LIMIT} deliveries, the default of RabbitMQ {broker_major}"
        text = f"queue {name} drops messages after {default}"
        advice = f"lift the limit by a policy: delivery-limit -1 for ^{name}$"
        yield _finding(Level.WARNING, "delivery-limit", text, advice)
    elif isinstance(limit, int) and limit >= 0:
        text = f"queue {name} drops messages after {limit} deliveries ({settings.origin('delivery-limit')})"
        yield _finding(Level.WARNING, "delivery-limit", text, _mend(name, settings, "delivery-limit"))


def _mend(name: str, settings: QueueSettings, key: str) -> str:
    if key in settings.policy:
        return f"take {key} out of the policy, or have its pattern not match {name}"
    return f"stop all programs that use {name}, empty it and delete it: taskqueue declares it without {key}"


def settings_of(argument: str, value: str) -> QueueSettings:
    """Return the settings of a queue of which one argument is known, as the broker names and writes it."""
    read: object = (
        int(value) if value.lstrip("-").isdecimal() else {"true": True, "false": False}.get(value, value)
    )
    kind = value if argument == "x-queue-type" else ""
    return QueueSettings(kind, {argument.removeprefix("x-"): read}, is_whole=False)
