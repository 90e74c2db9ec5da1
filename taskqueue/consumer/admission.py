"""Admission: the conditions that a workitem must meet before it is given to a worker, in order."""

import time
from collections.abc import Sequence
from typing import ClassVar, Final

from taskqueue.consumer.callers import Cancellations
from taskqueue.consumer.in_flight import Assignment
from taskqueue.consumer.judge import Judge
from taskqueue.consumer.settlement import Settlement
from taskqueue.errors import Unroutable
from taskqueue.worker.frames import LARGEST_BODY

_EARLY: Final = 0.05  # seconds; a workitem that is due within this time runs now


class Rule:
    """One condition. If a workitem does not meet it, the rule settles the workitem."""

    #: Whether the condition is about headers: a workitem without a header table always meets it.
    reads_headers: ClassVar[bool] = True

    def admits(self, assignment: Assignment) -> bool:
        """Return whether a workitem may go to a worker; if not, settle it."""
        raise NotImplementedError


class NotCancelled(Rule):
    """The workitem is not cancelled."""

    reads_headers = False

    def __init__(self, cancellations: Cancellations, judge: Judge) -> None:
        self._cancellations, self._judge = cancellations, judge

    def admits(self, assignment: Assignment) -> bool:
        """End a workitem that was cancelled before its delivery."""
        if not self._cancellations.pop(assignment.id, assignment.properties):
            return True
        self._judge.cancelled(assignment)
        return False


class NotTooLarge(Rule):
    """The workitem fits into a frame to a worker."""

    reads_headers = False

    def __init__(self, judge: Judge) -> None:
        self._judge = judge

    def admits(self, assignment: Assignment) -> bool:
        """Fail a workitem that is too large."""
        size = len(assignment.body)
        if size <= LARGEST_BODY:
            return True
        reason = f"the body has {size} bytes; at most {LARGEST_BODY} are allowed"
        self._judge.give_up(assignment, "WorkitemUnreadable", reason)
        return False


class NotExpired(Rule):
    """The workitem's expiration has not passed."""

    def __init__(self, judge: Judge) -> None:
        self._judge = judge

    def admits(self, assignment: Assignment) -> bool:
        """Fail a workitem that has expired."""
        deadline = assignment.deadline
        if deadline is None or deadline >= time.time():
            return True
        self._judge.expired(assignment)
        return False


class Due(Rule):
    """The workitem is due now."""

    def __init__(self, judge: Judge, settlement: Settlement) -> None:
        self._judge, self._settlement = judge, settlement

    def admits(self, assignment: Assignment) -> bool:
        """Send an early workitem to a delay queue; reject a workitem whose due time is unreadable."""
        try:
            wait = assignment.wait(time.time())
        except Unroutable as error:
            self._judge.reject(assignment, str(error))
            return False
        if wait is None or wait <= _EARLY:
            return True
        self._settlement.postpone(assignment, wait)
        return False


class BelowLimit(Rule):
    """The delivery count of the workitem is well below the delivery limit of its queue."""

    def __init__(self, settlement: Settlement) -> None:
        self._settlement = settlement

    def admits(self, assignment: Assignment) -> bool:
        """Publish a workitem near the limit to its queue again; the copy's delivery count starts at zero."""
        if not assignment.is_near_delivery_limit:
            return True
        self._settlement.postpone(assignment, None)
        return False


class Admission:
    """The rules in order; the first rule that a workitem breaks decides."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self._rules = tuple(rules)
        self._without_headers = tuple(rule for rule in rules if not rule.reads_headers)

    def admits(self, assignment: Assignment) -> bool:
        """Return whether a workitem may go to a worker; if not, it is settled."""
        has_headers = assignment.properties.header_table is not None
        for rule in self._rules if has_headers else self._without_headers:
            if not rule.admits(assignment):
                return False
        return True
