"""The pools: what their workers do now, the standing commands, and commands for operators."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

from taskqueue.control.answers import Answers
from taskqueue.control.directives import Directives
from taskqueue.monitor.asking import ActionFailed
from taskqueue.monitor.web import parameters
from taskqueue.monitor.web.pages import notices
from taskqueue.monitor.web.pages.page import Page
from taskqueue.monitor.web.parameters import BadRequest
from taskqueue.monitor.web.pools import (
    DRAIN,
    MEMBERS,
    PATH,
    PAUSE,
    RESUME,
    ROLL,
    SCALE,
    SHOW,
    UNDRAIN,
    PoolRequest,
)
from taskqueue.monitor.web.rights import ADMIN, OPERATOR
from taskqueue.texts import counted

_MOST: Final = 200  # processes of a pool on the page, and hosts that an answer names
_YES: Final = "yes"  # the value of a checked box


@dataclass(frozen=True, slots=True)
class Process:
    """A consumer or worker, as the page shows it; times are seconds since 1970."""

    group: str
    name: str
    pid: int
    state: str
    workitem: str = ""
    worker_type: str = ""
    since: float | None = None


@dataclass(frozen=True, slots=True)
class Pool:
    """A pool with its processes."""

    host: str
    is_drained: bool
    processes: Sequence[Process]
    more: int  # processes that are left out
    roll: str  # how far the last roll is; "" for none
    faults: Sequence[str]


@dataclass(frozen=True, slots=True)
class Standing:
    """A standing command, and the form that ends it: its verb, its fields, and the text of its button."""

    text: str
    by: str
    since: float
    until: float | None
    verb: str
    fields: Mapping[str, str]
    button: str


class Pools(Page):
    """Shows the pools, and gives them commands."""

    async def get(self) -> None:
        """Answer; while nobody answers, the page says why."""
        parameters.read((), self.query())
        self.rights.need_all()
        told: Mapping[str, Any] = {}
        trouble = ""
        try:
            told = await self._ask(PoolRequest(SHOW))
        except ActionFailed as error:
            trouble = str(error)
        self.show(
            "pools.html",
            "Pools",
            await self.read(notices.notices),
            pools=[_pool(each) for each in told.get("pools", ())],
            standing=list(_standing(told)),
            complaints=told.get("complaints", ()),
            trouble=trouble,
            may_operate=bool(told) and self.rights.may(OPERATOR),
            may_keep=self.rights.may(ADMIN),
        )

    async def post(self) -> None:
        """Give the command of a form."""
        request = PoolRequest.of(verb := self.get_body_argument("verb", ""), self._members(verb))
        told = await self._ask(request)
        self.show(
            "commanded.html",
            _done(request),
            await self.read(notices.notices),
            hosts=_says(told, request)[:_MOST],
            complaints=told["complaints"],
            back=PATH,
        )

    async def _ask(self, request: PoolRequest) -> Mapping[str, Any]:
        self.rights.need_all()
        return await self.ask(request)

    def _members(self, verb: str) -> dict[str, Any]:
        """Return the members of a command's JSON: those whose fields are filled in."""
        needed, others = MEMBERS.get(verb, ((), ()))
        values = {name: self.get_body_argument(name, "").strip() for name in (*needed, *others)}
        members: dict[str, Any] = {name: value for name, value in values.items() if value or name in needed}
        if "workers" in members:
            members["workers"] = _workers(members["workers"])
        if "keep" in members:
            members["keep"] = members["keep"] == _YES
        return members


def _workers(text: str) -> int | None:
    """Return the number that a field has; None for an empty one, which means that of the configuration."""
    if text and not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise BadRequest(f"workers: expected a number, or nothing, found {text!r:.80}")
    return int(text) if text else None


def _done(request: PoolRequest) -> str:
    """Return what was commanded, in words."""
    what, where = request.group or "all groups", f" on {request.host}" if request.host else ""
    if request.verb == SCALE:
        number = "as configured" if request.workers is None else f"with {counted(request.workers, 'worker')}"
        return f"{what} {number}{where}{', kept' if request.keep else ''}"
    words = {
        PAUSE: f"{what} is paused",
        RESUME: f"{what} is resumed",
        ROLL: f"Rolling {what}{where}",
        DRAIN: f"{request.host} is drained",
        UNDRAIN: f"{request.host} takes workitems",
    }
    return words[request.verb]


def _says(told: Mapping[str, Any], request: PoolRequest) -> Sequence[str]:
    """Return what each pool's answer to a command says, in words."""
    answers = Answers(list(told["pools"]))
    if request.verb == ROLL:
        return [f"{host}: {_rolled(roll)}" for host, roll in answers.rolling(str(told["command"]))]
    if request.verb == SCALE:
        found = answers.with_group(request.group)
        return [f"{host}: {request.group} has {counted(number, 'worker')}" for host, number in found]
    return [f"{each['host']} obeys" for each in answers.pools]


def _pool(told: Mapping[str, Any]) -> Pool:
    found = [process for group in told["groups"] for process in _processes(group)]
    shown, orders = tuple(islice(found, _MOST)), told["orders"] or {}
    drained, roll = bool(orders.get("drained")), told["roll"]
    return Pool(str(told["host"]), drained, shown, len(found) - len(shown), _rolled(roll), told["faults"])


def _rolled(roll: Mapping[str, Any] | None) -> str:
    if roll is None:
        return ""
    text = f"{roll['done']} of {counted(roll['total'], 'worker')} replaced"
    return f"{text}; stopped: {roll['failure']}" if roll["failure"] else text


def _processes(group: Mapping[str, Any]) -> Sequence[Process]:
    name = str(group["group"])
    consumer = Process(name, "consumer", int(group["consumer"] or 0), str(group["state"]))
    workers = [
        Process(
            name,
            str(each["name"]),
            int(each["pid"] or 0),
            str(each["does"]),
            str(each.get("workitem", "")),
            str(each.get("type", "")),
            each.get("since"),
        )
        for each in group["workers"]
    ]
    return [consumer, *workers]


def _standing(told: Mapping[str, Any]) -> Sequence[Standing]:
    """Return the standing commands."""
    if not told:
        return ()
    found = Directives.of_standing(told)
    paused, now = [], time.time()
    for name, each in found.pauses.items():
        if not each.is_over(now):
            form = RESUME, {"type": name}, f"Resume {name}"
            paused.append(Standing(f"{name} is paused", each.by, each.since, each.until, *form))
    drained = [
        Standing(f"{name} is drained", each.by, each.since, None, UNDRAIN, {"host": name}, f"Undrain {name}")
        for name, each in found.drained.items()
    ]
    return [*paused, *drained, *_kept(found)]


def _kept(found: Directives) -> Sequence[Standing]:
    kept = []
    for name, each in found.sizes.items():
        host, _, group = name.rpartition("/")
        where = f" on {host}" if host else ""
        text = f"{group} is kept at {counted(each.workers, 'worker')}{where}"
        fields = {"group": group, "host": host, "workers": "", "keep": _YES}
        kept.append(
            Standing(text, each.by, each.since, None, SCALE, fields, f"As configured: {group}{where}")
        )
    return kept
