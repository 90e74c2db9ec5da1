"""The copy of a workitem that is kept or runs again, with the history of its runs."""

import time
from typing import Any, Final

from taskqueue.amqp.properties import Properties
from taskqueue.amqp.tables import (
    MalformedProperties,
)
from taskqueue.messages import names
from taskqueue.messages.forwarding import is_untravelable, login_of
from taskqueue.messages.results import HOST, Run
from taskqueue.texts import shorten

_FIRST_ENTRIES: Final = 2  # of a history, and
_LAST_ENTRIES: Final = 17


def dead_letter_properties(run: Run, reason: str, queue: str) -> Properties:
    """Return the properties of the copy of a failed or rejected workitem that is kept."""
    headers = {
        names.REASON: shorten(reason, 2000),
        names.QUEUE: queue,
        names.ATTEMPT: run.attempt,
        names.HOST: HOST,
        names.WORKER: run.worker,
        names.STARTED: run.started,
        names.ENDED: run.ended,
        names.POSSIBLY_DOUBLED: run.possibly_doubled or None,
        names.DUE: None,
        names.WAIT: None,
    }
    return again(run.properties).with_headers(headers)


def next_run(run: Run, counter: str, count: int, delay: float) -> Properties:
    """Return the properties with which a workitem goes back to its queue.

    Args:
        run: the run that failed.
        counter: the header that counts such ends.
        count: its new value.
        delay: seconds until it is to run.
    """
    headers: dict[str, Any] = {
        names.ATTEMPT: run.attempt + 1,
        counter: count,
        names.DUE: None,
        names.WAIT: None,
    }
    if delay:
        headers |= {names.DUE: time.time() + delay, names.WAIT: float(delay)}
    return again(run.properties).with_headers(headers)


def with_history(run: Run, what: str, error: str, peak_memory: int | None = None) -> Run:
    """Return the run, its workitem's history longer by what became of it.

    The first and the latest entries are kept: what repeats a hundred times says nothing more in the middle.
    """
    try:
        history = run.properties.header(names.HISTORY)
    except MalformedProperties:
        history = None
    entries = history if isinstance(history, list) else []
    entry = {
        "attempt": run.attempt,
        "what": what,
        "error": shorten(error, 500),
        "host": HOST,
        "worker": run.worker,
        "started": run.started,
        "ended": run.ended,
    } | ({} if peak_memory is None else {"peak_memory": peak_memory})
    entries = [*entries[:_FIRST_ENTRIES], *entries[_FIRST_ENTRIES:][-_LAST_ENTRIES:], entry]
    return run._replace(properties=run.properties.with_headers({names.HISTORY: entries}))


def again(properties: Properties) -> Properties:
    """Return properties of a message of ours in a form that the broker takes a second time."""
    kept = properties.with_headers({}, is_untravelable) if properties.header_table else properties
    return kept.replace(delivery_mode=2, user_id=login_of(properties), expiration=None)
