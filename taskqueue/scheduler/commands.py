"""Messages to the leader: the definitions of configurations and plugins, commands, ends of workitems."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from heapq import nsmallest
from operator import attrgetter
from typing import Any, Final

from taskqueue.amqp.properties import Properties
from taskqueue.broker.scheduling import DEFINE, OVER
from taskqueue.broker.subscription import Delivery
from taskqueue.errors import BadSchedule
from taskqueue.messages.forwarding import new_id
from taskqueue.process.logs import Log
from taskqueue.scheduler.firing import Firing
from taskqueue.scheduler.register import Register
from taskqueue.scheduler.state import COMMAND, HELLO, KIND, MOST_SCHEDULES, State, encode
from taskqueue.schedules.definition import MOST_LISTED, Definition
from taskqueue.texts import counted

_CLOCKS_DIFFER: Final = 1.0  # seconds from which on two clocks are said to differ
_MOST_CLOCKS: Final = 1000  # hosts whose difference is known
_LONGEST: Final = 300  # characters of a host's name, or of a source
_MOST_NAMED: Final = 5  # schedules in a line of the log
_LARGEST_PAGE: Final = 512 * 1024  # bytes of it, unless one schedule has more
_TIMING: Final = ("cron", "every", "offset", "timezone")

Reply = Callable[[Delivery, Mapping[str, Any]], None]


class Commands:
    """Acts on the messages in the register that are no schedules."""

    def __init__(
        self, register: Register, firing: Firing, clock: Callable[[], float], host: str, reply: Reply
    ) -> None:
        """Change what `register` has, and plan it with `firing`.

        clock -- returns the time in seconds since 1970
        host -- this host's name
        reply -- answers a command
        """
        self._register, self._firing, self._clock = register, firing, clock
        self._host, self._reply = host, reply
        self._clocks: dict[
            str, int
        ] = {}  # how far the clocks of other hosts are known to be ahead, in seconds
        self._log = Log("scheduler")

    def act(self, message: Mapping[str, Any], delivery: Delivery) -> None:
        """Act on a message, and acknowledge it once that is written."""
        kind = message[KIND]
        try:
            if kind == COMMAND:
                self._command(message, delivery)
            elif kind == DEFINE:
                self._define(message, delivery)
            elif kind == OVER:
                self._over(message, delivery)
            else:
                if kind == HELLO:
                    self._compare(message)
                self._register.done(delivery)
        except (BadSchedule, KeyError, TypeError, ValueError, OverflowError) as error:
            text = str(error) if isinstance(error, BadSchedule) else f"it lacks something: {error!r:.100}"
            if kind == COMMAND:
                self._reply(delivery, {"error": text})
            else:
                self._log.error("a message to the scheduler is dropped: %s", text)
            self._register.done(delivery)

    # --- definitions ---

    def _define(self, message: Mapping[str, Any], delivery: Delivery) -> None:
        """Take all definitions of one source: a host's configuration, or a plugin."""
        source = str(message["source"])[:_LONGEST]
        definitions = [Definition.checked(each, is_ours=False) for each in message["definitions"]]
        states = [made for each in definitions if (made := self._defined(each, source)) is not None]
        names = {each.name for each in definitions}
        new = [state.name for state in states if self._register.find(state.name) is None]
        gone = [
            state for state in self._register.states() if source in state.sources and state.name not in names
        ]
        kept = [replace(state, sources=_without(state.sources, source)) for state in gone]
        steps = len(states) + len(kept)

        def done() -> None:
            nonlocal steps
            steps -= 1
            if steps <= 0:
                self._register.done(delivery)

        for state in (*states, *(state for state in kept if state.sources)):
            self._write(state, done)
        removed = [state.name for state in kept if not state.sources]
        self._tell("new", new, source)
        self._tell("changed", [state.name for state in states if state.name not in new], source)
        self._tell("removed", removed, source)
        for name in removed:
            self._remove(name, done)
        if not steps:
            done()

    def _defined(self, definition: Definition, source: str) -> State | None:
        """Return the state of a schedule that a source defines; None if nothing changes."""
        state = self._register.find(definition.name)
        if state is None:
            if len(self._register) >= MOST_SCHEDULES:
                self._log.error("schedule %s is ignored: there are %d", definition.name, MOST_SCHEDULES)
                return None
            return State(definition, last=self._clock(), sources=(source,))
        if not state.sources:
            text = "schedule %s of %s is ignored: a command has added one of this name"
            self._log.error(text, definition.name, source)
            return None
        if state.definition == definition and source in state.sources:
            return None
        sources = (*_without(state.sources, source), source)
        changed = replace(state, definition=definition, sources=sources)
        if any(getattr(definition, name) != getattr(state.definition, name) for name in _TIMING):
            changed = replace(changed, last=max(self._clock(), state.last))
        return changed

    def _tell(self, what: str, names: Sequence[str], source: str) -> None:
        """Log what a source has changed, in one line."""
        if names:
            shown = ", ".join(names[:_MOST_NAMED]) + (" and others" if len(names) > _MOST_NAMED else "")
            self._log.info("%s: %s %s: %s", source, counted(len(names), "schedule"), what, shown)

    # --- ends of workitems, clocks ---

    def _over(self, message: Mapping[str, Any], delivery: Delivery) -> None:
        ids = str(message["schedule"]), str(message["workitem"])
        state = self._firing.over(*ids, float(message["tick"]), str(message["token"]))
        if state is None:
            self._register.done(delivery)
        else:
            self._register.write(state, lambda: self._register.done(delivery))

    def _compare(self, message: Mapping[str, Any]) -> None:
        """Log a clock that differs from ours, once for each difference."""
        host, ahead = str(message["host"])[:_LONGEST], float(message["time"]) - self._clock()
        known, seconds = self._clocks.get(host), round(ahead)
        if known is None and len(self._clocks) >= _MOST_CLOCKS:
            self._clocks.clear()
        if abs(ahead) < _CLOCKS_DIFFER or host == self._host:
            self._clocks.pop(host, None)
        elif known is None and ahead < 0:
            self._clocks[host] = 0  # perhaps the message was late; the next one tells
        elif known is None or abs(seconds - known) > 1:
            self._clocks[host] = seconds
            which = "ahead of" if ahead > 0 else "behind"
            text = "the clock of %s is %.1f s %s that of %s, by which schedules are fired"
            self._log.warning(text, host, abs(ahead), which, self._host)

    # --- commands ---

    def _command(self, message: Mapping[str, Any], delivery: Delivery) -> None:
        action = str(message["action"])
        if action == "list":
            limit = min(max(int(message.get("limit", MOST_LISTED)), 1), MOST_LISTED)
            after, text = str(message.get("after", "")), str(message.get("text", ""))
            self._answer(delivery, self._page(after, limit, text.lower()))
        elif action == "add":
            self._add(Definition.checked(message["definition"]), delivery)
        else:
            name = str(message["name"])
            state = self._register.find(name)
            if state is None:
                raise BadSchedule(f"there is no schedule {name!r:.102}")
            self._act_on(action, state, message, delivery)

    def _page(self, after: str, limit: int, text: str) -> dict[str, Any]:
        """Return schedules by name, those after one; no more than a message of a bounded size has.

        text -- a part of their names, in lower case
        """
        found = (each for each in self._register.states() if each.name > after and text in each.name.lower())
        states = nsmallest(limit + 1, found, key=attrgetter("name"))
        shown: list[dict[str, Any]] = []
        room = _LARGEST_PAGE
        for state in states[:limit]:
            told = state.told()
            room -= len(encode(told))
            if room < 0 and shown:
                break
            shown.append(told)
        return {
            "schedules": shown,
            "next": shown[-1]["definition"]["name"] if len(shown) < len(states) else "",
        }

    def _act_on(self, action: str, state: State, message: Mapping[str, Any], delivery: Delivery) -> None:
        if action == "show":
            self._answer(delivery, {"schedule": state.told()})
        elif action == "pause":
            self._change(replace(state, paused=True), delivery)
        elif action == "resume":
            self._change(replace(state, paused=False, running="", last=self._clock()), delivery)
        elif action == "remove":
            if state.sources and not message.get("force"):
                raise BadSchedule(
                    f"schedule {state.name!r} is defined by {_listed(state.sources)}: remove it there"
                )
            self._remove(state.name, lambda: self._answer(delivery, {"removed": state.name}))
        elif action == "run-now":
            self._run_now(state, delivery)
        else:
            raise BadSchedule(f"no action {action!r:.60}")

    def _add(self, definition: Definition, delivery: Delivery) -> None:
        if self._register.find(definition.name) is not None:
            raise BadSchedule(f"there is a schedule {definition.name!r} already")
        if len(self._register) >= MOST_SCHEDULES:
            raise BadSchedule(f"there are {MOST_SCHEDULES} schedules, which is the maximum")
        self._change(State(definition, last=self._clock()), delivery)

    def _run_now(self, state: State, delivery: Delivery) -> None:
        command = reply_to(delivery)[1]  # it comes again if the leader is killed before its answer
        workitem = state.definition.run_id(command) if command else new_id()
        if state.running == workitem:
            self._answer(delivery, {"workitem": workitem})
            return
        if state.running:
            raise BadSchedule(f"workitem {state.running} of schedule {state.name!r} is not over")

        def published() -> None:
            current = self._register.find(state.name)
            if current is None or current.definition.overlap:
                self._answer(delivery, {"workitem": workitem})
            else:
                written = replace(current, running=workitem)
                self._register.write(written, lambda: self._answer(delivery, {"workitem": workitem}))

        self._firing.publish(state, workitem, self._clock(), published)

    def _change(self, state: State, delivery: Delivery) -> None:
        self._write(state, lambda: self._answer(delivery, {"schedule": state.told()}))

    def _write(self, state: State, then: Callable[[], None]) -> None:
        def written() -> None:
            self._firing.plan(state.name)
            then()

        self._register.write(state, written)

    def _remove(self, name: str, then: Callable[[], None]) -> None:
        self._register.remove(name, then)
        self._firing.plan(name)

    def _answer(self, delivery: Delivery, answer: Mapping[str, Any]) -> None:
        self._reply(delivery, answer)
        self._register.done(delivery)


def reply_to(delivery: Delivery) -> tuple[str, str]:
    """Return the queue and the correlation id for the answer to a command; "" for none."""
    properties = Properties.decode(delivery.properties)
    return properties.reply_to or "", properties.correlation_id or ""


def _without(sources: Iterable[str], source: str) -> tuple[str, ...]:
    return tuple(each for each in sources if each != source)


def _listed(sources: Iterable[str]) -> str:
    return ", ".join(sources)
