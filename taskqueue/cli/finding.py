"""Finding a workitem for a command, and what hinders one that waits."""

from collections.abc import Mapping
from typing import Any, Final

from taskqueue.errors import ExitStatus, TaskqueueError
from taskqueue.messages.events import QUEUED
from taskqueue.monitor.client import Reader
from taskqueue.monitor.web.api import NeverSeen
from taskqueue.monitor.web.parameters import BadRequest
from taskqueue.process import startup

_SHORTEST_BEGINNING: Final = 4  # characters of an id
_MOST_NAMED: Final = 5  # ids that begin alike


class Ambiguous(TaskqueueError):
    """Several ids begin with a given text."""

    status = ExitStatus.USAGE


def find(reader: Reader, id_: str, style: str) -> Mapping[str, Any]:
    """Return a workitem; for people, also the only one whose id begins so.

    style -- "json" for programs

    Raises NeverSeen, or Ambiguous if several ids begin so.
    """
    try:
        return _workitem(reader, id_)
    except NeverSeen:
        if style == "json" or not (names := _beginning(reader, id_)):
            raise
    if len(names) > 1:
        shown = ", ".join(names[:_MOST_NAMED]) + (", …" if len(names) > _MOST_NAMED else "")
        raise Ambiguous(f"no workitem has the id {id_!r}, and several ids begin with it: {shown}")
    startup.complain(f"{id_} is the beginning of one id: {names[0]}\n")
    return _workitem(reader, names[0])


def _workitem(reader: Reader, id_: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = reader.ask("workitem", id=id_)
    return found


def _beginning(reader: Reader, text: str) -> list[str]:
    """Return ids that begin with a text, a few of them; none for a text that is too short to mean one."""
    if len(text) < _SHORTEST_BEGINNING:
        return []
    try:
        page = reader.ask("workitems", {"id": [text], "limit": [str(_MOST_NAMED + 1)]})["workitems"]
    except BadRequest:  # no text that an id may begin with
        return []
    return list(dict.fromkeys(each["id"] for each in page))


def is_unserved(each: Mapping[str, Any]) -> bool:
    """Whether work of a type waits, nothing of it runs, and no consumer takes it.

    A consumer whose workers are all busy may have left the queue until one of them is free.
    """
    return each.get("consumers") == 0 and not each["running"] and bool(each["waiting"] or each["depth"])


def tell_unserved(reader: Reader, found: Mapping[str, Any]) -> bool:
    """Say that nobody runs a workitem that waits; return whether that was said."""
    name = found["worker_type"]
    is_told = found["state"] == QUEUED and any(
        each["worker_type"] == name and is_unserved(each) for each in reader.ask("types")["types"]
    )
    if is_told:
        startup.complain(f"no worker serves {name} now\n")
    return is_told
