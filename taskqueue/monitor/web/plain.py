"""The record's values as JSON has them: the form that the API and the commands show."""

import base64
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, Final

from taskqueue.messages.events import CRASHED, FAILED, LOST, REJECTED, Emitter
from taskqueue.monitor.record import Details, EmitterRow, Run

_CAME_BACK: Final = "it had been delivered before; a run of less than a second may be lost with its consumer"
_RETRIED: Final = "by hand: the dead letter was sent back to its queue"
_AGAIN: Final = "the dead letter was retried, or the id was submitted again"


def plain(value: Any) -> Any:
    """Return a value of the record in dicts, lists and scalars."""
    match value:
        case Emitter():
            return value._asdict() | {"name": str(value)}
        case Details():
            return details(value)
        case EmitterRow():
            return _fields(value)
        case bytes():
            return base64.b64encode(value).decode()
        case Mapping():
            return {str(key): plain(inner) for key, inner in value.items()}
        case list() | tuple():
            return [plain(inner) for inner in value]
        case set() | frozenset():
            return sorted(value)
    return _fields(value) if is_dataclass(value) else value


def _fields(value: Any) -> dict[str, Any]:
    return {each.name: plain(getattr(value, each.name)) for each in fields(value)}


def details(value: Details) -> dict[str, Any]:
    """Return a workitem with its runs, its time line, and its result in Base64."""
    progress = value.progress and {"fraction": value.progress[0], "text": value.progress[1]}
    result = value.result is not None and {
        "content_type": value.content_type,
        "size": len(value.result),
        "base64": plain(value.result),
    }
    return _fields(value.workitem) | {
        "progress": progress or None,
        "runs": plain(value.runs),
        "time_line": time_line(value),
        "result": result or None,
    }


def time_line(value: Details) -> list[dict[str, Any]]:
    """Return what happened to a workitem and when, the earliest first; unknown times are left out."""
    workitem, runs, retried = value.workitem, value.runs, value.retried
    lost = {run.ended for run in runs if run.outcome == LOST}
    moments: list[tuple[float | None, str, str]] = [
        (None if workitem.queued in retried else workitem.queued, "queued", ""),
        (workitem.due, "due", ""),
        *((at, "retried", _RETRIED) for at in retried),
        *((at, "came back", _CAME_BACK) for at in value.redelivered if at not in lost),
    ]
    for before, run in zip((None, *runs), runs, strict=False):
        is_told = before is not None and any(before.ended <= at <= run.ended for at in retried)
        if before is not None and not is_told and _came_again(before, run):
            moments.append((run.started or run.ended, "came again", _AGAIN))
        place = f"{run.worker} on {run.host}" if run.worker else run.host
        moments.append((run.started, "started", f"run {run.attempt}, {place}"))
        moments.append((run.ended, run.outcome, f"run {run.attempt}" + (run.error and f": {run.error}")))
    ended = {run.ended for run in runs}
    if workitem.started is not None and workitem.started not in {run.started for run in runs}:
        moments.append((workitem.started, "started", workitem.worker))
    if workitem.again_at is not None:
        moments.append((workitem.again_at, "runs again", ""))
    if workitem.ended is not None and workitem.ended not in ended:
        moments.append((workitem.ended, workitem.state, workitem.error))
    known = [(at, what, text) for at, what, text in moments if at is not None]
    return [
        {"at": at, "what": what, "text": text} for at, what, text in sorted(known, key=lambda one: one[0])
    ]


def _came_again(before: Run, run: Run) -> bool:
    """Whether a workitem that had failed for good ran again: its attempts are then counted from the start."""
    return before.outcome in (FAILED, CRASHED, REJECTED) and run.attempt <= before.attempt
