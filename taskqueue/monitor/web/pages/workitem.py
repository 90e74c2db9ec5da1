"""A workitem: its time line, runs, body, result and output."""

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any, Final

from taskqueue.messages.events import RUNNING
from taskqueue.messages.recording import REDACTED
from taskqueue.messages.states import OVER
from taskqueue.monitor.record import Details, LogEntry, Run, Workitem
from taskqueue.monitor.web import parameters
from taskqueue.monitor.web.api import ACTIONS, CONCERNED, NeverSeen
from taskqueue.monitor.web.pages import showing
from taskqueue.monitor.web.pages.page import Page
from taskqueue.monitor.web.pages.schedules import schedule_address
from taskqueue.monitor.web.plain import time_line
from taskqueue.monitor.web.rights import OPERATOR
from taskqueue.monitor.web.schedules import LABEL
from taskqueue.monitor.web.view import View
from taskqueue.monitor.web.workflows import workflow_address
from taskqueue.texts import is_safe
from taskqueue.workflows.wire import ID

_MOST_LINES: Final = 1000  # that the record keeps of a workitem
_LOG: Final = 16_000  # characters of escaped output on the page
_TRACEBACK: Final = 10_000  # characters of the newest traceback, escaped
_OLDER: Final = 1_500  # of an older one
_MOST_RUNS: Final = 15
_MOST_MOMENTS: Final = 60  # of the time line
_BODY: Final = 8_000
TENANT: Final = parameters.text("tenant", "Whose it is.")


class WorkitemPage(Page):
    """Shows a workitem."""

    async def get(self, id_: str) -> None:
        """Answer."""
        tenant = parameters.read((TENANT,), self.query()).get("tenant")
        await self.make("workitem.html", id_, lambda view: values(view, id_, tenant))


class WorkitemLog(Page):
    """Answers with the whole output of a workitem as text."""

    async def get(self, id_: str) -> None:
        """Answer."""
        tenant = parameters.read((TENANT,), self.query()).get("tenant")
        await self.read(lambda view: found(view, id_, tenant))
        entries = await self.read(lambda view: view.logs(id_, -1, _MOST_LINES, tenant))
        self.set_header("Content-Type", "text/plain; charset=UTF-8")
        self.finish("".join(f"{line_of(each)}\n" for each in entries))


class WorkitemResult(Page):
    """Answers with a workitem's recorded result as a file."""

    async def get(self, id_: str) -> None:
        """Answer."""
        tenant = parameters.read((TENANT,), self.query()).get("tenant")
        details = await self.read(lambda view: found(view, id_, tenant))
        if details.result is None:
            raise NeverSeen("there is no recorded result, or you may not see it")
        self.send_file("result", details.result)


def found(view: View, id_: str, tenant: str | None) -> Details:
    """Return a workitem. Raises NeverSeen."""
    details = view.find(id_, tenant)
    if details is None:
        said = view.unseen(id_)
        details = view.find(id_, tenant)  # it may have come to the record before `said` was true
        if details is None:
            raise NeverSeen(said)
    return details


def values(view: View, id_: str, tenant: str | None) -> Mapping[str, Any]:
    """Return what the template shows. Raises NeverSeen."""
    details = found(view, id_, tenant)
    workitem = details.workitem
    entries = view.logs(id_, -1, _MOST_LINES, tenant)
    lines = _last_lines(entries)
    runs = details.runs[::-1][:_MOST_RUNS]
    return {
        "workitem": workitem,
        "details": details,
        "time_line": time_line(details)[-_MOST_MOMENTS:],
        "runs": [(run, _traceback(run, is_newest=not number)) for number, run in enumerate(runs)],
        "runs_left_out": len(details.runs) - len(runs),
        "log": "".join(f"{each}\n" for each in lines),
        "lines_left_out": len(entries) - len(lines),
        "head": showing.block(workitem.head, _BODY),
        "is_whole": is_whole(workitem),
        "has_body": is_whole(workitem)
        or (workitem.state in CONCERNED["retry"] and view.rights.may(OPERATOR)),
        "result": _text(details.result),
        "rss": _memory(view, workitem),
        "bodies": view.rights.bodies,
        "actions": actions_for(workitem) if view.rights.may(OPERATOR) else [],
        "submission": submission(workitem) if view.rights.bodies else "",
        "here": showing.workitem_address(id_, ""),
        "is_over": workitem.state in OVER,
        "schedule": schedule_of(workitem),
        "schedule_address": schedule_address,
        "workflow": "" if view.rights.types else workflow_of(id_),
        "workflow_address": workflow_address,
        "query": showing.address("", {"tenant": tenant} if tenant else {}),
    }


def schedule_of(workitem: Workitem) -> str:
    """Return the name of the schedule that fired a workitem; "" for none."""
    return next((each.removeprefix(LABEL) for each in workitem.labels if each.startswith(LABEL)), "")


def workflow_of(id_: str) -> str:
    """Return the id of the workflow that a workitem with this id is a step of; "" for none.

    The id of a request of a chain ends in a number, as only few steps do.
    """
    workflow, _, step = id_.partition(".")
    return workflow if ID.match(workflow) and step and not step.isdecimal() else ""


def _memory(view: View, workitem: Workitem) -> int | None:
    """Return the resident memory of the worker that runs a workitem, in bytes; None if it is not known."""
    if workitem.state != RUNNING:
        return None
    worker = view.workers().get((workitem.host, workitem.worker))
    return worker.rss if worker is not None else None


def actions_for(workitem: Workitem) -> list[str]:
    """Return the actions that concern a workitem in its state."""
    return [action for action in ACTIONS if workitem.state in CONCERNED[action]]


def line_of(entry: LogEntry) -> str:
    """Return a line of output as it is shown."""
    return f"{showing.clock(entry.at)} {entry.level} {showing.line(entry.text, 8192)}"


def _last_lines(entries: Sequence[LogEntry]) -> list[str]:
    """Return the last lines that fit."""
    chosen: list[str] = []
    room = _LOG
    for entry in reversed(entries):
        shown = line_of(entry)
        room -= showing.length(shown) + 1
        if room < 0 and chosen:
            break
        chosen.append(shown if room >= 0 else showing.block(shown, _LOG))
    return chosen[::-1]


def _traceback(run: Run, *, is_newest: bool) -> str:
    return showing.block(run.traceback, _TRACEBACK if is_newest else _OLDER)


def _text(result: bytes | None) -> str | None:
    """Return a result as text; None if it is none."""
    if result is None:
        return None
    try:
        text = result.decode()
    except UnicodeDecodeError:
        return None
    return showing.block(_indented(text), _BODY)


def _indented(text: str) -> str:
    try:
        return json.dumps(json.loads(text), indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        return text


def is_whole(workitem: Workitem) -> bool:
    """Return whether the record has the whole body of a workitem, and nothing in it is redacted."""
    return len(workitem.head.encode()) == workitem.size and REDACTED not in workitem.head


def submission(workitem: Workitem) -> str:
    """Return the command that submits a workitem again; if only a part of its body is known, from a file."""
    if not workitem.worker_type:
        return ""
    words = ["taskqueue", "submit", workitem.worker_type]
    is_argument = is_whole(workitem) and is_safe(workitem.head) and not workitem.head.startswith("-")
    words += [workitem.head] if is_argument else ["-"]
    words += ["--tenant", workitem.tenant] if workitem.tenant else []
    words += [word for label in workitem.labels for word in ("--label", label)]
    command = shlex.join(words)
    return command if is_argument else f"{command} <BODY"
