"""Removing workflows some time after their end, in transactions of bounded size."""

import time
from typing import Final

from taskqueue.flow.schema import State
from taskqueue.flow.store import Store

_MOST_WORKFLOWS: Final = 100
_MOST_STEPS: Final = 2000


def remove_old(store: Store, keep: float) -> bool:
    """Remove some workflows that have ended `keep` seconds ago, in a transaction.

    A workflow is gone at once, its steps follow. One with a callback that has not ended stays.

    Returns whether there is more to be removed.
    """
    before = time.time() - keep
    rows = store.rows(
        "SELECT no FROM workflow WHERE ended < ? AND NOT EXISTS("
        "SELECT 1 FROM step WHERE step.workflow = workflow.no AND step.state <= ?) ORDER BY ended LIMIT ?",
        (before, int(State.QUEUED), _MOST_WORKFLOWS),
    )
    # Another process may have let one of them go on meanwhile.
    removed = store.rows(
        "DELETE FROM workflow WHERE no IN ANY ? AND ended < ? RETURNING no", ([no for (no,) in rows], before)
    )
    store.executemany("INSERT INTO removed VALUES(?)", removed)
    return _remove_steps(store) or len(rows) == _MOST_WORKFLOWS


def _remove_steps(store: Store) -> bool:
    """Remove steps of workflows that are gone; return whether some are left."""
    rows = store.rows(
        "SELECT step.no FROM removed JOIN step ON step.workflow = removed.workflow LIMIT ?", (_MOST_STEPS,)
    )
    steps = [no for (no,) in rows]
    store.execute("DELETE FROM edge WHERE predecessor IN ANY ?", (steps,))
    store.execute("DELETE FROM step WHERE no IN ANY ?", (steps,))
    if len(steps) == _MOST_STEPS:
        return True
    store.execute("DELETE FROM removed")
    return False
