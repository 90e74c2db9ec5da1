"""One workitem's story, and why it may have come to its end more than once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from chaos.ends import End
from chaos.faults import Hit
from chaos.schedule import BROKER

#: Faults after which the broker delivers again what it had delivered. A worker's death, a reload and a
#: rolling restart are none of them: what they double is a bug. Neither is a line that is merely slow.
REDELIVERING = (
    "kill a consumer",
    "kill a supervisor",
    "kill a dispatcher",
    "kill a dispatcher's supervisor",
    "cut a line",
    "break a line",
    "restart the broker",
    "kill the broker",
)
#: Faults after which a process that lives on publishes again what was not confirmed.
DISCONNECTING = ("cut a line", "break a line", "restart the broker", "kill the broker")
#: Faults during which what a service sends does not arrive: it arrives when they are over.
SLOWING = ("delay a line", "raise an alarm", "freeze a host")

#: Seconds around the time in which a service is seen to have a workitem: before, for the eyes may be slow;
#: after, until the broker has handled the acknowledgement that has passed over the line.
BEFORE = 0.1
AFTER = 0.5
#: Seconds before its death of which RabbitMQ forgets the acknowledgements when it is killed: they have no
#: confirm, and a queue to which nothing is published writes them down when it has been idle for a while, or
#: when they are very many. Of 12,539 that bare pika sent in 5 seconds 3.10.8 forgot 7,001, the oldest of them
#: 2.8 seconds old.
FORGOTTEN = 4.0

PRODUCED_TWICE = "confirm lost by the producer"


@dataclass(frozen=True, slots=True)
class Story:
    """The known facts of one workitem."""

    id: str
    worker_type: str
    is_doubtful: bool  # whether the producer published it again
    spans: Mapping[str, Sequence[tuple[float, float]]]  # by service: from when to when it had the workitem
    delays: Sequence[tuple[float, float]]  # from when to when it was in a delay queue, at most
    ends: Sequence[End]
    hits: Sequence[Hit]  # what was hit meanwhile, the earliest first

    def why_twice(self, earlier: End, extra: End) -> str:
        """Return what doubled an end, "" if nothing explains it."""
        if extra.run != earlier.run:
            return self.why_again(extra.started)
        if extra.message != earlier.message:
            return ""  # one run was reported twice, which nothing excuses
        span = extra.ended, extra.ended
        hits = (hit for hit in self.hits if hit.kind in DISCONNECTING and self._met(hit, extra.pool, span))
        return next((hit.kind for hit in hits), "")

    def why_again(self, by: float = float("inf")) -> str:
        """Return the last fault that may have had the workitem run again by some moment, "" without one.

        It must have hit a service while that had the workitem in hand: then the broker, which heard no
        acknowledgement, delivers it once more. Or the broker itself, while a delay queue had it: one that
        does not know whether the next queue has what it passed on passes it on again.
        """
        for hit in reversed(self.hits):
            if hit.began <= by and hit.kind in REDELIVERING and self._was_in_hand(hit):
                return hit.kind
        return PRODUCED_TWICE if self.is_doubtful else ""

    def forgotten(self, by: float) -> float:
        """Return how many seconds before the broker was killed the workitem was done that it delivered again.

        0 for one that was still in hand, or in a delay queue. It is what FORGOTTEN must be at least.
        """
        spans = [span for spans in (*self.spans.values(), self.delays) for span in spans]
        kills = [hit.began for hit in self.hits if hit.kind == "kill the broker" and hit.began <= by]
        gaps = [killed - until for killed in kills for since, until in spans if since - BEFORE <= killed]
        return max(0.0, min(gaps, default=0.0))

    def _was_in_hand(self, hit: Hit) -> bool:
        if hit.group not in ("", self.worker_type):
            return False
        if hit.target == BROKER and any(hit.overlaps(since, until + AFTER) for since, until in self.delays):
            return True
        return any(self._met(hit, service, span) for service, spans in self.spans.items() for span in spans)

    def _met(self, hit: Hit, service: str, span: tuple[float, float]) -> bool:
        """Tell whether a fault hit a service while it had the workitem."""
        if hit.target not in (BROKER, service):
            return False
        since, until = span
        for other in self.hits:  # what is sent meanwhile may be slowed down once more
            if other.kind in SLOWING and other.target in (BROKER, service) and other.began <= until + AFTER:
                until = max(until, other.over)
        after = FORGOTTEN if hit.kind == "kill the broker" else AFTER
        return hit.overlaps(since - BEFORE, until + after)
