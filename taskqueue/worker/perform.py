"""One run of a handler, and its outcome."""

import time
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any, Final

from taskqueue.errors import (
    BadArguments,
    InvalidRequest,
    Reject,
    ResultUnwritable,
    Retry,
    UnknownTask,
    WorkitemUnreadable,
    checked_delay,
)
from taskqueue.messages import names
from taskqueue.messages.content import JSON
from taskqueue.messages.results import Failure, encode_answer, encode_failure
from taskqueue.messages.workitem import Workitem, decode_body
from taskqueue.texts import shorten
from taskqueue.worker import frames
from taskqueue.worker.base import BaseWorker
from taskqueue.worker.frames import Verdict
from taskqueue.worker.limits import Limits
from taskqueue.worker.passing import StepResults
from taskqueue.workflows.definition import EXTENDED, Extend

_NO_DELAY: Final = -1.0  # by the group's settings
_BY_VALUE: Final = StepResults()
_LARGEST_FAILURE: Final = frames.LONGEST_FRAME // 2  # bytes; a longer failure does not quote the workitem


def limits_of(worker: BaseWorker, limits: Limits) -> Mapping[str, Limits]:
    """Return the limits of the worker types that have their own."""
    return {
        service.worker_type: replace(limits, timeout=service.timeout)
        for service in worker.services
        if service.timeout is not None
    }


def perform(
    worker: BaseWorker, task: frames.TaskFrame, limits: Limits, results: StepResults = _BY_VALUE
) -> bytes:
    """Run the handler on one workitem; return an outcome for everything but the end of the process.

    results -- passes results of steps on that are too large to be passed on by value
    """
    started = time.time()
    workitem = Workitem(task.worker_type, task.attempt, task.properties, task.body)
    try:
        worker.workitem = workitem
        _check_accepted(worker, workitem)
        with limits.on_workitem():  # decoding a producer's body is limited, too
            worker.workitem = filled = results.filled(workitem)
            body = decode_body(filled)
            kind, data = _encoded(worker.handle_task(body), workitem, body)
            kind, data = results.kept(workitem, kind, data)
        if len(data) > frames.LARGEST_BODY:
            raise ResultUnwritable(
                f"the result has {len(data)} bytes; at most {frames.LARGEST_BODY} can be sent"
            )
        return frames.Outcome(
            task.number, Verdict.SUCCEEDED, started, time.time(), _NO_DELAY, kind, "", data
        ).encode()
    except BaseException as error:  # noqa: BLE001 -- plugin code may raise any exception
        verdict, delay, error = _verdict(error)
        failure = _describe(error)
    text, data = shorten(str(failure), 1000), _encode(failure, workitem)
    return frames.Outcome(task.number, verdict, started, time.time(), delay, JSON, text, data).encode()


def _encoded(value: Any, workitem: Workitem, body: Any) -> tuple[str, bytes]:
    """Return the content type and the bytes of a handler's return value; ResultUnwritable if it has none."""
    if not isinstance(value, Extend):
        return encode_answer(value, body)
    if names.WORKFLOW not in workitem.headers:
        raise ResultUnwritable("the handler returned Extend, but its workitem is no step of a workflow")
    try:
        return EXTENDED, value.encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ResultUnwritable(f"the result of a step that adds others cannot be sent: {error}") from None


def _describe(error: BaseException) -> Failure:
    """Describe a handler's exception; its methods and attributes are plugin code, too."""
    try:
        return Failure.of(_without_our_frames(error))
    except Exception as why:  # noqa: BLE001 -- see above
        return Failure(type(error).__name__[:200], f"<it cannot be described: {type(why).__name__}>")


def _encode(failure: Failure, workitem: Workitem) -> bytes:
    """Return the body of a failure, with the workitem if size and memory allow it."""
    try:
        data = encode_failure(failure, workitem)
    except Exception:  # noqa: BLE001 -- plugin code made the failure, and memory may be short
        return encode_failure(Failure(failure.type, failure.message), None)
    return data if len(data) <= _LARGEST_FAILURE else encode_failure(failure, None)


def _verdict(error: BaseException) -> tuple[Verdict, float, BaseException]:
    """Return the verdict of a handler's exception, the delay of a retry, and the exception to report."""
    match error:
        case Retry():
            try:
                return Verdict.RETRY, _NO_DELAY if error.delay is None else checked_delay(error.delay), error
            except Exception as wrong:  # noqa: BLE001 -- a subclass may have set it to any value
                wrong.__cause__ = error
                return Verdict.FAILED, _NO_DELAY, wrong
        case Reject() | UnknownTask() | BadArguments() | InvalidRequest():
            return Verdict.REJECTED, _NO_DELAY, error
    return Verdict.FAILED, _NO_DELAY, error


def _check_accepted(worker: BaseWorker, workitem: Workitem) -> None:
    if not _is_accepted(workitem.content_type, *worker.ACCEPT):
        raise WorkitemUnreadable(
            f"content type {workitem.content_type!r} is not accepted; expected {', '.join(worker.ACCEPT)}"
        )


@lru_cache(maxsize=256)
def _is_accepted(content_type: str, *patterns: str) -> bool:
    kind = content_type.partition("/")
    accepted = (pattern.lower().partition("/") for pattern in patterns)
    return any(each[0] in ("*", kind[0]) and each[2] in ("*", kind[2]) for each in accepted)


def _without_our_frames(error: BaseException) -> BaseException:
    """Drop this module's frame from a traceback: users look for their own code."""
    inner = error.__traceback__.tb_next if error.__traceback__ else None
    return BaseException.with_traceback(error, inner) if inner else error
