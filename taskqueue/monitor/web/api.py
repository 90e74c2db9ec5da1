"""The routes of the API: what each takes, needs and returns."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from taskqueue.errors import ExitStatus, TaskqueueError
from taskqueue.messages import events
from taskqueue.monitor.record import Filter
from taskqueue.monitor.web import attention, grouping, parameters
from taskqueue.monitor.web.parameters import FILTER, PAGE, SINCE, UNTIL, BadRequest, Parameter, filter_of
from taskqueue.monitor.web.plain import plain
from taskqueue.monitor.web.rights import ADMIN, OPERATOR, VIEWER
from taskqueue.monitor.web.view import View

PREFIX: Final = "/api/v1"
_HOUR: Final = 3600.0
_MINUTE: Final = 60.0
#: The states of the workitems that an action concerns.
CONCERNED: Final = {
    "retry": frozenset((events.FAILED, events.REJECTED)),
    "cancel": frozenset((events.QUEUED, events.SCHEDULED, events.RUNNING, events.RETRYING)),
    "purge": frozenset((events.FAILED, events.REJECTED)),
}
ACTIONS: Final = tuple(CONCERNED)


class NeverSeen(TaskqueueError):
    """The record has no workitem of an id, or the user does not see it."""

    status = ExitStatus.FAILED


Values = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Route:
    """A path of the API.

    Args:
        name: the operation's name in the OpenAPI document.
        path: with {id} for a part of it.
        summary: what it returns, in one line.
        answer: makes the answer from what the user may see, the path's parts and the parameters. It may
            block, so it runs in a thread.
        parameters: those of the query.
        role: the least role.
        schema: the name of the answer's schema in the OpenAPI document.
    """

    name: str
    path: str
    summary: str
    answer: Callable[[View, Values], Any]
    schema: str
    parameters: tuple[Parameter, ...] = ()
    role: str = VIEWER


def _workitems(view: View, values: Values) -> Any:
    page = view.page(filter_of(values), values.get("cursor"), values.get("limit", parameters.ROWS))
    return {"workitems": plain(page.workitems), "next": page.next}


def _count(view: View, values: Values) -> Any:
    return {"count": view.count(filter_of(values))}


def _workitem(view: View, values: Values) -> Any:
    found = view.find(values["id"])
    if found is None:
        said = view.unseen(values["id"])
        found = view.find(values["id"])  # it may have come to the record before `said` was true
        if found is None:
            raise NeverSeen(said)
    return plain(found)


def _log(view: View, values: Values) -> Any:
    _workitem(view, values)
    after = values.get("after", -1)
    entries = view.logs(values["id"], after, values.get("limit", parameters.MOST_ROWS))
    return {"log": plain(tuple(entries)), "next": entries[-1].number if entries else after}


def _types(view: View, _values: Values) -> Any:
    return {"types": plain(tuple(view.types()))}


def _overview(view: View, _values: Values) -> Any:
    now = time.time()
    matters = [{"type": each.worker_type, "text": each.text} for each in attention.matters_of(view, now)]
    since = (now - _HOUR) // _MINUTE * _MINUTE
    return {"attention": matters, "sums": plain(tuple(view.sums_by_time(since, now, int(_MINUTE))))}


def _dead_letters(view: View, values: Values) -> Any:
    found = grouping.newest_groups(view, filter_of(values), values.get("limit", parameters.ROWS))
    return {"groups": plain(tuple(found.groups)), "count": found.count, "is_more": found.is_more}


def _processes(view: View, _values: Values) -> Any:
    return {"processes": plain(tuple(view.emitters()))}


def _minutes(view: View, values: Values) -> Any:
    until = values.get("until", time.time())
    since = values.get("since", until - _HOUR)
    if not 0 <= until - since <= parameters.LONGEST_SPAN:
        raise BadRequest(
            f"parameter since: expected a time before until, by at most {parameters.LONGEST_SPAN:.0f} s"
        )
    types = (values["type"],) if "type" in values else ()
    return {"minutes": plain(tuple(view.minutes(since, until, *types)))}


def _gaps(view: View, _values: Values) -> Any:
    return {"gaps": plain(tuple(view.gaps()))}


def _audit(view: View, _values: Values) -> Any:
    return {"audit": plain(tuple(view.audit()))}


def _status(view: View, _values: Values) -> Any:
    return {"user": view.rights.user, "role": view.rights.role, "began_at": view.began_at()}


_ONE_TYPE: Final = Parameter("type", "The worker type; all if it is absent.", parameters.TYPE.read)
_AFTER: Final = parameters.whole("after", "The number of the last line that is known.", 0, 10**9)
_LINES: Final = parameters.whole(
    "limit", "The number of lines.", 1, parameters.MOST_ROWS, parameters.MOST_ROWS
)

_GROUPS: Final = parameters.whole("limit", "The number of groups.", 1, parameters.MOST_ROWS, parameters.ROWS)
_LETTERS: Final = tuple(each for each in FILTER if each.name != "state")

#: The routes that read. The path's parts are matched as they are encoded, then decoded.
ROUTES: Final = (
    Route("status", "/status", "The user, and when the record begins.", _status, "Status"),
    Route("workitems", "/workitems", "Workitems, the newest first.", _workitems, "Workitems",
          (*FILTER, *PAGE)),
    Route("count", "/count", "The number of workitems.", _count, "Count", FILTER),
    Route("workitem", "/workitems/{id}", "A workitem with its runs and time line.", _workitem, "Details"),
    Route("log", "/workitems/{id}/log", "The log of a workitem.", _log, "Log", (_AFTER, _LINES)),
    Route("types", "/types", "The worker types.", _types, "Types"),
    Route("overview", "/overview", "The last hour: what needs attention, in words, and counts by minute and "
          "state.", _overview, "Overview"),
    Route("dead_letters", "/dead-letters", "The newest dead letters, in groups of one error.", _dead_letters,
          "DeadLetters", (*_LETTERS, _GROUPS)),
    Route("processes", "/processes", "The processes that emit events.", _processes, "Processes"),
    Route("minutes", "/minutes", "Ends of runs by minute, worker type, tenant and state; of the last hour "
          "without since.", _minutes, "Minutes", (SINCE, UNTIL, _ONE_TYPE)),
    Route("gaps", "/gaps", "Where events were missed.", _gaps, "Gaps"),
    Route("audit", "/audit", "The newest actions of users.", _audit, "Audit", role=ADMIN),
)  # fmt: skip

#: The path of an action, which needs this role.
ACTION_PATH: Final = "/actions/{action}"
ACTION_ROLE: Final = OPERATOR


@dataclass(frozen=True, slots=True)
class ActionRequest:
    """An action on workitems.

    Args:
        action: one of ACTIONS.
        ids: the workitems; empty if the filter selects them.
        wanted: the filter; None if ids are given.
        dry_run: whether the workitems are only counted.
        tenant: whose the ids are; None for any.
    """

    action: str
    ids: tuple[str, ...] = ()
    wanted: Filter | None = None
    dry_run: bool = False
    tenant: str | None = None

    @property
    def about(self) -> dict[str, Any]:
        """The ids, with their tenant, as JSON has them."""
        told: dict[str, Any] = {"ids": list(self.ids)}
        return told if self.tenant is None else told | {"tenant": self.tenant}


def action_of(action: str, body: object) -> ActionRequest:
    """Return the action of a request's JSON. Raises BadRequest."""
    if action not in ACTIONS:
        raise BadRequest(f"action: expected one of {', '.join(ACTIONS)}, found {action[:80]!r}")
    if not isinstance(body, dict):
        raise BadRequest('body: expected a JSON object with "ids" or "filter"')
    unknown = body.keys() - {"ids", "filter", "dry_run", "tenant"}
    if unknown:
        found = min(map(str, unknown))[:80]
        raise BadRequest(f"body: expected ids, tenant, filter and dry_run, found {found!r}")
    if ("ids" in body) == ("filter" in body):
        raise BadRequest('body: expected one of "ids" and "filter"')
    dry_run = body.get("dry_run", False)
    if not isinstance(dry_run, bool):
        raise BadRequest("dry_run: expected true or false")
    tenant = body.get("tenant")
    if tenant is not None and not ("ids" in body and isinstance(tenant, str)):
        raise BadRequest("tenant: expected a text, beside ids; a filter has its own")
    if "ids" in body:
        return ActionRequest(action, parameters.ids_of_json(body["ids"]), None, dry_run, tenant)
    return ActionRequest(action, (), parameters.filter_of_json(body["filter"]), dry_run)
