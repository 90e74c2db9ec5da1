"""Workflows as users see and change them, and the requests for it, which the recorder answers."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self
from urllib.parse import quote

from taskqueue.monitor.web import parameters
from taskqueue.monitor.web.parameters import BadRequest
from taskqueue.monitor.web.requests import VerbRequest
from taskqueue.monitor.web.rights import OPERATOR, VIEWER
from taskqueue.monitor.web.wording import number
from taskqueue.workflows.wire import CANCEL, ID, LIST, MOST_LISTED, RETRY, SHOW

#: The least role for each verb.
ROLE_OF: Final[Mapping[str, str]] = {
    **dict.fromkeys((LIST, SHOW), VIEWER),
    **dict.fromkeys((CANCEL, RETRY), OPERATOR),
}
#: The verbs that operators have.
OPERATIONS: Final = (CANCEL, RETRY)
#: The states of steps that RETRY runs again.
FAILED: Final = ("failed", "rejected", "cancelled")
#: Paths of the API, below its prefix.
PATH: Final = "/workflows"
ONE_PATH: Final = f"{PATH}/{{id}}"
OPERATION_PATH: Final = f"{ONE_PATH}/{{operation}}"
_CURSOR: Final = re.compile(r"[0-9]{1,19}(?:\.[0-9]{1,19}){0,15}")


def _read_cursor(value: str) -> tuple[int, ...]:
    if not _CURSOR.fullmatch(value):
        raise ValueError("`next` of an answer")
    return tuple(map(int, value.split(".")))


#: Parameters of the API.
OPEN: Final = parameters.choice("open", "true: only those that have not ended.", ("true", "false"))
LIMIT: Final = parameters.whole("limit", "The maximum number of workflows.", 1, MOST_LISTED, MOST_LISTED)
BEFORE: Final = parameters.Parameter("before", "Goes on after an answer: its `next`.", _read_cursor)


def cursor(before: tuple[int, ...] | list[int]) -> str:
    """Return what BEFORE reads; "" if nothing follows."""
    return ".".join(map(str, before))


@dataclass(frozen=True, slots=True)
class WorkflowRequest(VerbRequest):
    """A request that is about workflows.

    Args:
        verb: one of ROLE_OF.
        id: the workflow; "" with LIST.
        is_open: with LIST, whether those that have ended are left out.
        before: with LIST, where it goes on; () for the newest.
        limit: with LIST, the maximum number.
    """

    subject = "workflow"
    roles = ROLE_OF

    id: str = ""
    is_open: bool = False
    before: tuple[int, ...] = ()
    limit: int = MOST_LISTED

    @property
    def about(self) -> str:
        """The entry of the audit, as JSON."""
        return json.dumps({"workflow": self.id})

    def plain(self) -> dict[str, Any]:
        """Return the members of the request's JSON."""
        return {"id": self.id, "open": self.is_open, "before": cursor(self.before), "limit": self.limit}

    @classmethod
    def of_action(cls, action: str, content: Mapping[str, Any]) -> Self:
        """Return the request of an action and its JSON. Raises BadRequest."""
        verb = cls.verb_of(action)
        id_, before, limit = content.get("id", ""), content.get("before", ""), content.get("limit", 1)
        if verb != LIST and not (isinstance(id_, str) and ID.match(id_)):
            raise BadRequest("id: expected the id of a workflow, 32 hexadecimal digits")
        if not isinstance(limit, int) or not 1 <= limit <= MOST_LISTED:
            raise BadRequest(f"limit: expected a number from 1 to {MOST_LISTED}")
        try:
            numbers = _read_cursor(str(before)) if before else ()
        except ValueError as error:
            raise BadRequest(f"before: expected {error}") from None
        return cls(verb, id_, content.get("open") is True, numbers, limit)


@dataclass(frozen=True, slots=True)
class WorkflowRow:
    """A workflow as the API and the pages have it; times are seconds since 1970."""

    id: str
    name: str
    tenant: str
    state: str  # running, succeeded, failed or cancelled
    open: bool  # whether further steps may be added, so that it does not end with those that it has
    steps: dict[str, int]  # their number by state
    started: float
    ended: float | None


def workflow_address(id_: str) -> str:
    """Return the address of the page of a workflow."""
    return f"{PATH}/{quote(id_, safe='')}"


def progress(steps: Mapping[str, int]) -> str:
    """Return how many steps of a workflow are over, and what is not right, in words.

    steps -- their number by state
    """
    over = sum(steps.get(state, 0) for state in ("succeeded", "skipped", *FAILED))
    others = [
        f"{number(steps[state])} {state}" for state in ("queued", *FAILED, "skipped") if steps.get(state)
    ]
    return ", ".join([f"{number(over)} of {number(sum(steps.values()))}", *others])


@dataclass(frozen=True, slots=True)
class StepRow:
    """A step of a workflow as the API and the pages have it; a map stands for its elements."""

    step: str
    type: str
    state: str
    run: int
    on: str  # of a callback: the end of the workflow that it waits for; "" for other steps
    is_map: bool
    elements: dict[str, int]  # of a map: their number by state
    after: tuple[str, ...]  # the steps that it waited for, or waits for
    queued: float | None  # when the broker had its workitem; of a map, the first one
    ended: float | None
    error: str
    workitem: str  # its id in the record; "" for a map
