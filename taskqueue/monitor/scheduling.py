"""The recorder's side of requests about schedules: it checks the right again, then asks the scheduler."""

import time
from collections.abc import Mapping
from dataclasses import asdict
from itertools import islice
from typing import Any, Final

from taskqueue.config import AmqpSettings
from taskqueue.errors import BadSchedule, ScheduleRefused
from taskqueue.monitor.web.api import NeverSeen
from taskqueue.monitor.web.parameters import BadRequest
from taskqueue.monitor.web.rights import NoRight, Rights
from taskqueue.monitor.web.schedules import (
    ADD,
    LIST,
    REMOVE,
    SHOW,
    SHOWN_TIMES,
    ScheduleRequest,
    ScheduleRow,
)
from taskqueue.scheduler.client import ask
from taskqueue.scheduler.state import State
from taskqueue.schedules.definition import Definition

_TIMEOUT: Final = 5.0  # seconds; a page waits for it
_MOST_PAGES: Final = 50  # of all schedules that are read for one page of a user with limits

Json = dict[str, Any]


def perform(amqp: AmqpSettings, rights: Rights, request: ScheduleRequest) -> Json:
    """Return the answer to a request; its member `count` is the number of schedules.

    Raises:
        NoRight: the user may not, or would add a schedule whose workitems it does not see.
        BadRequest: the scheduler refuses.
        NeverSeen: there is no schedule of this name that the user sees.
        NoScheduler, or another TaskqueueError of the broker: nobody answers.
    """
    rights.need(request.role)
    if request.verb == LIST:
        return _list(amqp, rights, request)
    if request.verb == ADD:
        return _add(amqp, rights, request.definition)
    told = _find(amqp, rights, request.name)
    if request.verb != SHOW:
        more = {"force": request.force} if request.verb == REMOVE else {}
        told |= _ask(amqp, request.verb, name=request.name, **more)
    return {"count": 1, **told, "schedule": _shown(told["schedule"], rights, request.times)}


def _find(amqp: AmqpSettings, rights: Rights, name: str) -> Json:
    missing = f"there is no schedule {name[:100]!r}"
    try:
        found = ask(amqp, SHOW, name=name, timeout=_TIMEOUT)
    except ScheduleRefused:
        raise NeverSeen(missing) from None
    if not _is_seen(found["schedule"], rights):
        raise NeverSeen(missing)
    return found


def _list(amqp: AmqpSettings, rights: Rights, request: ScheduleRequest) -> Json:
    """Return schedules by name; those that the user does not see are passed over."""
    shown: list[Json] = []
    after = request.after
    for _ in range(_MOST_PAGES):
        page = _ask(amqp, LIST, text=request.text, after=after, limit=request.limit)
        seen = [each for each in page["schedules"] if _is_seen(each, rights)]
        room = request.limit - len(shown)
        shown += [_shown(each, rights, request.times) for each in seen[:room]]
        after = page["next"] if len(seen) <= room else shown[-1]["name"]
        if not after or not rights.is_limited or len(shown) == request.limit:
            break
    return {"count": len(shown), "schedules": shown, "next": after}


def _add(amqp: AmqpSettings, rights: Rights, fields: Mapping[str, Any]) -> Json:
    try:
        definition = Definition.checked(fields)
    except BadSchedule as error:
        raise BadRequest(str(error)) from None
    if not rights.sees(definition.worker_type, definition.tenant):
        raise NoRight(f"user {rights.user!r} may not see workitems of this worker type and tenant")
    told = _ask(amqp, ADD, definition=definition.as_json())
    return {"count": 1, "schedule": _shown(told["schedule"], rights)}


def _ask(amqp: AmqpSettings, verb: str, **arguments: Any) -> Json:
    try:
        return ask(amqp, verb, timeout=_TIMEOUT, **arguments)
    except ScheduleRefused as error:
        raise BadRequest(str(error)) from None


def _is_seen(told: Json, rights: Rights) -> bool:
    definition = told["definition"]
    return rights.sees(str(definition["worker_type"]), str(definition["tenant"]))


def _shown(told: Json, rights: Rights, times: int = SHOWN_TIMES) -> Json:
    """Return a schedule as the web process gets it; times -- the number of its next ticks."""
    state = State.of_json(told)
    own = {name: value for name, value in state.definition.as_json().items() if name != "tags"}
    row = ScheduleRow(
        **own | ({} if rights.bodies else {"body": ""}),
        tags=state.definition.tags,
        paused=state.paused,
        running=state.running,
        state=state.in_words(),
        sources=state.sources,
        fired=state.fired,
        skipped=state.skipped,
        fired_at=state.fired_at or None,
        next=tuple(islice(state.coming(time.time()), times)),
    )
    return asdict(row)
