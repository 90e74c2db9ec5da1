"""The account: every workitem exactly one final state, and a cause for whatever came twice."""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from chaos.ends import End
from chaos.faults import Hit
from chaos.story import Story
from chaos.tap import Tap
from chaos.workload import MAX_CRASHES, RETRIES, Workitem

#: Where one message must be, or more, of a workitem that came to a state, beside its result. One that no
#: worker type could be found for has none.
QUEUES = {
    "succeeded": (),
    "failed": ("taskqueue_failed",),
    "rejected": ("taskqueue_rejected",),
}

LONGEST_WAIT = 15.0  # seconds after a workitem's last end in which a fault may have met it
LONGEST_RUNG = 1.0  # seconds; none holds a workitem of the workload longer


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that is known when everything has ended."""

    workitems: Sequence[Workitem]
    submitted: Mapping[str, float]  # when each was published first, in seconds since 1970
    doubtful: set[str]  # published again by the producer
    hits: Sequence[Hit]  # in their order
    taps: Mapping[str, Tap]  # by service
    ends: Sequence[End]


@dataclass(slots=True)
class Account:
    """The balance of the evidence."""

    states: dict[str, dict[str, int]] = field(default_factory=dict)  # by kind, by state: workitems
    lost: list[str] = field(default_factory=list)  # workitems without an end
    wrong: list[str] = field(default_factory=list)  # those with another end than they must have, and how
    doubled: dict[str, str] = field(default_factory=dict)  # those with more than one end, and the cause
    unexplained: list[str] = field(default_factory=list)  # those doubled without a cause
    record: list[str] = field(default_factory=list)  # in which the monitor's record differs
    forgotten: list[float] = field(
        default_factory=list
    )  # Story.forgotten, for each kill of the broker that doubled
    workflows: int = 0
    steps: dict[int, int] = field(default_factory=dict)  # steps of workflows, by the number of their runs
    at_once: int = 0  # limited workitems, at most
    commands: dict[str, int] = field(default_factory=dict)  # of administrators: given, and obeyed at once
    exposed: int = 0  # workitems in the hands of somebody whom a fault hit that may double

    @property
    def is_balanced(self) -> bool:
        """Whether nothing was lost, went wrong or was doubled without a cause, and the record agrees."""
        return not (self.lost or self.wrong or self.unexplained or self.record)


def balance(evidence: Evidence) -> Account:
    """Compare what was submitted with what came of it."""
    account = Account()
    ends: dict[str, list[End]] = defaultdict(list)
    for end in evidence.ends:
        ends[end.workitem].append(end)
    for workitem in evidence.workitems:
        states = account.states.setdefault(workitem.kind.name, defaultdict(int))
        if workitem.id in ends:
            story = _story(evidence, workitem, ends.pop(workitem.id))
            states[" and ".join(sorted({end.state for end in story.ends}))] += 1
            _enter(account, workitem, story)
        else:
            account.lost.append(workitem.id)
    account.wrong += [f"{workitem}: was never submitted" for workitem in ends]
    return account


def _story(evidence: Evidence, workitem: Workitem, ends: list[End]) -> Story:
    submitted = evidence.submitted[workitem.id]
    over = max(end.ended for end in ends) + LONGEST_WAIT
    last = bisect_right(evidence.hits, over, key=lambda hit: hit.began)
    taps = evidence.taps.values() if workitem.kind.is_delayed else ()
    return Story(
        workitem.id,
        workitem.kind.worker_type,
        workitem.id in evidence.doubtful,
        {service: _spans(service, tap, workitem.id, ends) for service, tap in evidence.taps.items()},
        [(sent, sent + LONGEST_RUNG) for tap in taps for sent in tap.went.get(workitem.id, ())],
        ends,
        [hit for hit in evidence.hits[:last] if hit.over >= submitted],
    )


def _spans(service: str, tap: Tap, workitem: str, ends: Sequence[End]) -> list[tuple[float, float]]:
    """Return from when to when a service had a workitem: as its line shows, and while it ran there.

    A run goes on after its delivery was lost with the connection.
    """
    runs = [(end.started, end.ended) for end in ends if end.pool == service]
    return [*((since, until) for since, until in tap.had.get(workitem, ())), *runs]


def _enter(account: Account, workitem: Workitem, story: Story) -> None:
    account.wrong += [f"{story.id}: {fault}" for fault in _faults(workitem, story.ends)]
    account.exposed += bool(story.why_again())
    for queue in {end.queue for end in story.ends}:
        same = sorted((end for end in story.ends if end.queue == queue), key=lambda end: end.started)
        for earlier, extra in pairwise(same):
            cause = account.doubled[story.id] = story.why_twice(earlier, extra)
            if cause == "kill the broker":
                account.forgotten.append(story.forgotten(extra.started))
            if not cause:
                account.unexplained.append(f"{story.id}: {earlier} and {extra} after {story.hits}")


def _faults(workitem: Workitem, ends: Sequence[End]) -> Iterable[str]:
    """Yield in which ways what a workitem came to is not what it must come to."""
    kind = workitem.kind
    queues = QUEUES[kind.state] + ((kind.results,) if kind.worker_type else ())
    for missing in set(queues) - {end.queue for end in ends}:
        yield f"nothing in {missing}"
    for end in ends:
        if end.state != kind.state or end.queue not in queues:
            yield f"{end.state} in {end.queue}, expected {kind.state}: {end.reason}"
        elif not end.reason.startswith(kind.cause):
            yield f"its reason is {end.reason}, expected {kind.cause}"
        elif end.history and not _is_counted_right(workitem, end):
            yield f"its attempts were miscounted: {', '.join(end.history)}"


def _is_counted_right(workitem: Workitem, end: End) -> bool:
    """Tell whether a workitem was given up after as many attempts as it is granted."""
    if workitem.kind.name == "raising":
        return end.history.count("failed") == RETRIES + 1
    if workitem.kind.name == "crashing":
        return end.history == ("crashed",) * MAX_CRASHES
    return True
