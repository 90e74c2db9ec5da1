"""The copy of a workitem that runs again or becomes a dead letter, with the history of its runs."""

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

_FIRST_ENTRIES: Final = 2  # of a history are kept, and _LAST_ENTRIES at its end
_LAST_ENTRIES: Final = 17


def dead_letter_properties(run: Run, reason: str, queue: str) -> Properties:
    """Return the properties of the dead letter of a failed or rejected workitem."""
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
        names.CLAIM: None,  # it has no key any more
    }
    return again(run.properties).with_headers(headers)


def next_run(run: Run, counter: str, count: int, delay: float) -> Properties:
    """Return the properties of a workitem that returns to its queue.

    Args:
        run: the run that failed.
        counter: the header that counts runs that ended so.
        count: its new value.
        delay: seconds until the next run.
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
    """Return the run with its outcome added to the workitem's history.

    The first and the last entries are kept: the middle of many repetitions says nothing new.
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
    """Return our message's properties in a form that the broker accepts again."""
    kept = properties.with_headers({}, is_untravelable) if properties.header_table else properties
    return kept.replace(delivery_mode=2, user_id=login_of(properties), expiration=None)
