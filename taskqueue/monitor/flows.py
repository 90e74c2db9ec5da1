"""The recorder's side of requests about workflows: it checks the right again, then asks a flow process."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

from taskqueue.config import AmqpSettings
from taskqueue.errors import FlowRefused
from taskqueue.flow import client
from taskqueue.monitor.web.api import NeverSeen
from taskqueue.monitor.web.parameters import BadRequest
from taskqueue.monitor.web.rights import NoRight, Rights
from taskqueue.monitor.web.workflows import StepRow, WorkflowRequest, WorkflowRow, cursor
from taskqueue.workflows import wire

_TIMEOUT: Final = 5.0  # seconds; a page waits for it

Json = dict[str, Any]


def perform(amqp: AmqpSettings, rights: Rights, request: WorkflowRequest) -> Json:
    """Return the answer to a request; its member `count` is the number of workflows.

    Raises:
        NoRight: the user may not, or sees only some worker types: the steps of a workflow have several.
        BadRequest: the flow process refuses.
        NeverSeen: there is no workflow of this id that the user sees.
        NoFlow, or another TaskqueueError of the broker: nobody answers.
    """
    rights.need(request.role)
    if rights.types:
        raise NoRight(f"user {rights.user!r} is limited to some worker types, and a workflow may have any")
    if request.verb == wire.LIST:
        return _list(amqp, rights, request)
    told = _find(amqp, rights, request.id)
    if request.verb == wire.SHOW:
        return {"count": 1, **told}
    try:
        answer = client.ask(amqp, request.verb, request.id, timeout=_TIMEOUT)
    except FlowRefused as error:
        raise BadRequest(str(error)) from None
    return {"count": 1, "workflow": _shown(answer), "again": answer.get("again")}


def newest(amqp: AmqpSettings, tenants: frozenset[str], request: WorkflowRequest) -> tuple[list[Json], str]:
    """Return workflows, the newest first, and where the list goes on; "" at its end.

    tenants -- whose they are; empty for all
    """
    found, following = client.newest(
        amqp,
        limit=request.limit,
        before=request.before,
        is_open=request.is_open,
        tenants=sorted(tenants),
        timeout=_TIMEOUT,
    )
    return [_shown(each) for each in found], cursor(following)


def _list(amqp: AmqpSettings, rights: Rights, request: WorkflowRequest) -> Json:
    found, following = newest(amqp, rights.tenants, request)
    return {"count": len(found), "workflows": found, "next": following}


def _find(amqp: AmqpSettings, rights: Rights, id_: str) -> Json:
    """Return a workflow with its steps."""
    missing = f"there is no workflow {id_}, or it was removed some time after its end"
    try:
        found = client.ask(amqp, wire.GRAPH, id_, timeout=_TIMEOUT)
    except FlowRefused:
        raise NeverSeen(missing) from None
    if rights.tenants and found["workflow"]["tenant"] not in rights.tenants:
        raise NeverSeen(missing)
    return found | {
        "workflow": _shown(found["workflow"]),
        "steps": [_step_shown(each) for each in found["steps"]],
    }


def _shown(told: Mapping[str, Any]) -> Json:
    row = WorkflowRow(
        id=told["id"],
        name=told["workflow"],
        tenant=told["tenant"],
        state=told["state"],
        open=told["open"],
        steps=told["steps"],
        started=told["started"],
        ended=told["ended"],
    )
    return asdict(row)


def _step_shown(told: Mapping[str, Any]) -> Json:
    error = told["error"] or {}
    row = StepRow(
        step=told["step"],
        type=told["type"],
        state=told["state"],
        run=told["run"],
        on=told["on"],
        is_map=told["is_map"],
        elements=told["elements"],
        after=tuple(told["after"]),
        queued=told["published"],
        ended=told["ended"],
        error=": ".join(filter(None, map(error.get, ("type", "message")))),
        workitem=told["workitem"],
    )
    return asdict(row)
