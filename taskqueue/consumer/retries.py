"""Whether and when a workitem runs again."""

import random
from typing import Final

from taskqueue.config import GroupSettings
from taskqueue.consumer.assignment import Assignment
from taskqueue.worker.frames import Outcome, Verdict

#: How often a handler may ask for another run by raising Retry.
MOST_REQUESTS: Final = 100

_CRASH_DELAY: Final = 1.0  # seconds after the second crash; the first is followed at once


def retry_delay(group: GroupSettings, assignment: Assignment, outcome: Outcome) -> float | None:
    """Return after how many seconds a workitem whose handler raised runs again; None if it does not."""
    failures = assignment.failures + 1
    most = max(group.retries, MOST_REQUESTS) if outcome.verdict is Verdict.RETRY else group.retries
    if outcome.verdict is Verdict.REJECTED or failures > most:
        return None
    if outcome.delay >= 0:
        return outcome.delay
    delay = group.retry_delay * group.retry_backoff ** min(failures - 1, 100)
    jitter = random.uniform(-group.retry_jitter, group.retry_jitter)  # noqa: S311 -- keeps no secret
    return min(delay, group.retry_max_delay) * (1 + jitter)


def crash_delay(group: GroupSettings, crashes: int) -> float:
    """Return after how many seconds a workitem whose worker crashed runs again; ever later."""
    return 0.0 if crashes == 1 else min(_CRASH_DELAY * 2 ** min(crashes - 2, 20), group.retry_max_delay)
