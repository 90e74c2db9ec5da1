"""Schedules as users see and change them, and the requests for it, which the recorder answers."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self

from taskqueue.monitor.web import parameters
from taskqueue.monitor.web.parameters import BadRequest
from taskqueue.monitor.web.requests import VerbRequest
from taskqueue.monitor.web.rights import ADMIN, OPERATOR, VIEWER
from taskqueue.schedules.definition import MOST_LISTED

LIST, SHOW, PAUSE, RESUME, RUN_NOW, ADD, REMOVE = (
    *("list", "show", "pause", "resume", "run-now", "add", "remove"),
)
#: The least role for each verb.
ROLE_OF: Final[Mapping[str, str]] = {
    **dict.fromkeys((LIST, SHOW), VIEWER),
    **dict.fromkeys((PAUSE, RESUME, RUN_NOW), OPERATOR),
    **dict.fromkeys((ADD, REMOVE), ADMIN),
}
#: The verbs that operators have.
OPERATIONS: Final = tuple(verb for verb, role in ROLE_OF.items() if role == OPERATOR)
#: The label of a schedule's workitems begins so.
LABEL: Final = "schedule:"
SHOWN_TIMES: Final = 3
MOST_TIMES: Final = 100  # that are asked for
#: Paths of the API, below its prefix.
PATH: Final = "/schedules"
ONE_PATH: Final = f"{PATH}/{{name}}"
NEXT_PATH: Final = f"{ONE_PATH}/next"
OPERATION_PATH: Final = f"{ONE_PATH}/{{operation}}"
#: Parameters of the API.
AFTER: Final = parameters.text("after", "The name of the last schedule that is known; `next` of the answer.")
TEXT: Final = parameters.text("name", "A part of the name, in upper or lower case.")
LIMIT: Final = parameters.whole("limit", "The maximum number of schedules.", 1, MOST_LISTED, MOST_LISTED)
FORCE: Final = parameters.choice("force", "true: also one that a configuration defines.", ("true", "false"))
NUMBER: Final = parameters.whole("number", "The number of times.", 1, MOST_TIMES, SHOWN_TIMES)
_LONGEST_ENTRY: Final = 4096  # characters of the audit
_LONGEST_NAME: Final = 255  # characters; no schedule has such a name


@dataclass(frozen=True, slots=True)
class ScheduleRequest(VerbRequest):
    """A request that is about schedules.

    Args:
        verb: one of ROLE_OF.
        name: the schedule; "" with LIST.
        text: with LIST, a part of the names; "" for all.
        after: with LIST, the name after which the list goes on.
        limit: with LIST, the maximum number.
        times: the number of its next times.
        definition: with ADD, the fields of the schedule.
        force: with REMOVE, whether one that a configuration defines is removed, too.
    """

    subject = "schedule"
    roles = ROLE_OF

    name: str = ""
    text: str = ""
    after: str = ""
    limit: int = MOST_LISTED
    times: int = SHOWN_TIMES
    definition: Mapping[str, Any] = field(default_factory=dict)
    force: bool = False

    @property
    def about(self) -> str:
        """The entry of the audit, as JSON; it has no body."""
        told = {name: value for name, value in self.definition.items() if name != "body"}
        return json.dumps(
            {"schedule": self.name or told.get("name", ""), **({"definition": told} if told else {})}
        )

    def plain(self) -> dict[str, Any]:
        """Return the members of the request's JSON."""
        listed = {"text": self.text, "after": self.after, "limit": self.limit} if self.verb == LIST else {}
        added = {"definition": dict(self.definition)} if self.verb == ADD else {}
        return {"name": self.name, "times": self.times, "force": self.force, **listed, **added}

    @classmethod
    def of_action(cls, action: str, content: Mapping[str, Any]) -> Self:
        """Return the request of an action and its JSON. Raises BadRequest."""
        verb = cls.verb_of(action)
        name, text, after = (content.get(each, "") for each in ("name", "text", "after"))
        if not all(isinstance(each, str) and len(each) <= _LONGEST_NAME for each in (name, text, after)):
            raise BadRequest(f"name, text and after: expected texts of at most {_LONGEST_NAME} characters")
        definition = content.get("definition", "")
        limit, times = content.get("limit", MOST_LISTED), content.get("times", SHOWN_TIMES)
        for number, most in ((limit, MOST_LISTED), (times, MOST_TIMES)):
            if not isinstance(number, int) or not 1 <= number <= most:
                raise BadRequest(f"limit and times: expected numbers from 1 to {most}")
        if verb == ADD and not isinstance(definition, dict):
            raise BadRequest("expected a schedule as a JSON object")
        force = content.get("force") is True
        return cls(verb, name, text, after, limit, times, definition or {}, force)


@dataclass(frozen=True, slots=True)
class ScheduleRow:
    """A schedule as the API and the pages have it; times are seconds since 1970."""

    name: str
    worker_type: str
    cron: str  # "" if it is due at intervals
    every: float  # seconds; 0 with cron
    offset: float
    timezone: str
    body: str  # "" if the user may not see bodies
    content_type: str
    tenant: str
    tags: tuple[str, ...]
    jitter: float  # seconds
    missed: str  # skip, once or all
    overlap: bool
    paused: bool
    running: str  # the id of the workitem that must be over before the next tick; "" for none
    state: str  # in words
    sources: tuple[str, ...]  # what defines it; none if it was added by a command
    fired: int  # ticks
    skipped: int  # ticks that were left out because of `running`
    fired_at: float | None  # the last fired tick
    next: tuple[float, ...]  # ticks
