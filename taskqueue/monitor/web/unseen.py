"""The knowledge of an id that the record does not have: whether its workitem may still be on its way."""

import time
from collections.abc import Sequence
from typing import Final

from taskqueue.broker.topology import TASKQUEUE
from taskqueue.messages.events import ENDED
from taskqueue.monitor.record import EmitterRow
from taskqueue.monitor.report import Report

#: Seconds after which a silent dispatcher is gone, if nothing has told its end: the broker has closed its
#: connection and put what it had back into the queue.
_GONE_AFTER: Final = 180.0
_HANDLED_AFTER: Final = 1.0  # seconds from a delivery to its event; the clocks of hosts may differ by less


def never_seen(id_: str, began_at: float | None) -> str:
    """Return what is said of an id that is not in the record.

    began_at -- when the record begins, in seconds since 1970; None if it is empty
    """
    return f"workitem {id_!r}: never seen; {_beginning(began_at)}"


def unseen(id_: str, began_at: float | None, report: Report | None, emitters: Sequence[EmitterRow]) -> str:
    """Return what is known of an id that is not in the record.

    It never existed before a time T if the queue `taskqueue` was empty at T, and the record has what every
    dispatcher did until then.

    Args:
        id_: the id; the record must not have it after `report` and `emitters` were read.
        began_at: when the record begins, in seconds since 1970; None if it is empty.
        report: the recorder's; None if there is none.
        emitters: the processes of the record.
    """
    if report is None or report.depths_at is None:
        return never_seen(id_, began_at)
    ahead, at = report.depths.get(TASKQUEUE), _shown(report.depths_at)
    if ahead:
        return (
            f"workitem {id_!r}: not routed yet, if it was submitted: {ahead} ahead in the queue {TASKQUEUE}, "
            f"as of {at}; {_beginning(began_at)}"
        )
    is_known = ahead == 0 and began_at is not None and began_at < report.depths_at
    if is_known and _have_told_all(emitters, report.depths_until or report.depths_at):
        return f"workitem {id_!r}: never existed (before {at}; {_beginning(began_at)})"
    return never_seen(id_, began_at)


def _have_told_all(emitters: Sequence[EmitterRow], until: float) -> bool:
    """Whether the record has all that dispatchers routed until a time."""
    dispatchers = [row for row in emitters if row.emitter.kind == "dispatcher"]
    live = [row for row in dispatchers if row.state != ENDED and row.last_seen > until - _GONE_AFTER]
    if not live or any(row.missed or row.lost for row in dispatchers):
        return False
    return all(not row.is_blocked and _reach(row) >= until + _HANDLED_AFTER for row in live)


def _reach(row: EmitterRow) -> float:
    """Return until when the record has a process's events."""
    return min(row.last_seen, row.state_at or 0.0)  # its clock may be ahead


def _beginning(began_at: float | None) -> str:
    return "the record is empty" if began_at is None else f"the record begins at {_shown(began_at)}"


def _shown(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(at))
