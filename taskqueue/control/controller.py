"""The controller: the process of a pool that takes the commands of administrators from the broker.

It runs no plugin code and alone has the control key. It checks each command, tells the supervisor what to do,
and answers with what the pool does then.
"""

import signal
import socket
import time
from collections.abc import Mapping
from functools import partial
from typing import Any, Final

from taskqueue.amqp.properties import Properties
from taskqueue.amqp.tables import MalformedProperties
from taskqueue.broker.broadcast import BroadcastConsumer
from taskqueue.broker.events import own_version
from taskqueue.broker.loop import EventLoop
from taskqueue.broker.outbound import Outbound, OutboundListener
from taskqueue.broker.publisher import Publication, PublishResult
from taskqueue.broker.session import Session, SessionListener
from taskqueue.broker.topology import CONTROL
from taskqueue.config import AmqpSettings
from taskqueue.consumer import control
from taskqueue.consumer.control import Reports
from taskqueue.control.register import ControlRegister, RegisterListener
from taskqueue.control.seal import LIFETIME, Guard, OtherVersion, Stale, Unsealed, seal, unseal
from taskqueue.control.survey import Survey
from taskqueue.errors import BrokerRefused, BrokerUnavailable, ExitStatus
from taskqueue.messages.content import JSON
from taskqueue.messages.names import DIRECT_REPLY
from taskqueue.messages.results import HOST
from taskqueue.process.daemon import Signals
from taskqueue.process.logs import Log, Tally

SIGNALS: Final = (signal.SIGTERM, signal.SIGHUP)  # both end the process

#: Kinds of messages.
COMMAND: Final = "command"
ANSWER: Final = "answer"

#: Verbs of commands; one without a verb only asks.
SCALE: Final = "scale"
ROLL: Final = "roll"

_MOST_ASKED: Final = 100  # commands that are not answered yet
_LONGEST_WAIT: Final = 3600.0  # seconds until the end of pauses is looked for again: a clock may be set


class Controller(SessionListener, OutboundListener, RegisterListener):
    """Takes commands and follows the register."""

    def __init__(self, amqp: AmqpSettings, key: bytes, supervisor: socket.socket, signals: Signals) -> None:
        """Prepare to `run`.

        Args:
            amqp: the broker's address.
            key: the control key.
            supervisor: this process's end of the socket pair to the supervisor.
            signals: the source of SIGTERM and SIGHUP.
        """
        self._key, self._supervisor, self._signals = key, supervisor, signals
        self._log = Log("controller")
        self._loop = loop = EventLoop()
        self._reports = Reports(loop, supervisor)
        self._session = Session(loop, amqp, "taskqueue controller", on_error=self._on_error)
        self._outbound = Outbound(loop, self._session, self)
        self._register = ControlRegister(
            loop, self._session, self._outbound, key=key, listener=self, log=self._log
        )
        self._broadcasts = BroadcastConsumer(
            loop, self._session, CONTROL, on_message=self._take, on_settled=lambda: None
        )
        self._guard = Guard()
        self._release = own_version()  # of this process: a newer one may be installed while it runs
        self._refused = Tally(self._log, "refused %d commands, the last one because %s")
        self._surveys: dict[int, Survey] = {}  # by number
        self._number = 0  # of the last survey
        self._waiting: list[tuple[int, Mapping[str, Any], str]] = []  # for a document of the register
        self._timer: object | None = None  # for the end of a pause
        self._told: dict[str, Any] | None = None  # the orders that the supervisor has
        self._status = ExitStatus.OK

    def run(self) -> ExitStatus:
        """Take commands until SIGTERM or SIGHUP."""
        self._loop.watch(self._signals, self._act_on_signals)
        self._loop.watch(self._supervisor, self._read_supervisor)
        self._session.open()
        self._loop.run()
        return self._status

    def _act_on_signals(self) -> None:
        if any(self._signals.pending()):
            self._loop.stop()

    def _on_error(self, error: BrokerUnavailable | BrokerRefused) -> None:
        if self._session.is_refused(error):
            self._log.critical("%s", error)
            self._status = ExitStatus.REFUSED
            self._loop.stop()
        else:
            self._log.warning("%s; trying again", error)

    def outbound_ready(self) -> None:
        """Read the register, for which the supervisor waits."""
        self._reports.send("connected")
        self._register.outbound_ready()

    # --- the register ---

    def register_read(self) -> None:
        """Tell the supervisor, answer who waits for this, and enter this host."""
        self._order()
        if HOST not in self._register.directives.hosts:
            self._register.change(lambda found: found.with_host(HOST), lambda: None)
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            self._begin_after(*each)

    def register_missing(self, reason: str) -> None:
        """Go on without standing commands."""
        self._log.error("there are no pauses and no drained hosts: %s", reason)
        self._order()

    def _order(self) -> None:
        """Tell the supervisor what is in force now, and plan to do so when that changes by itself."""
        directives, now = self._register.directives, time.time()
        orders = {
            "paused": directives.paused(now),
            "drained": HOST in directives.drained,
            "sizes": directives.sizes_of(HOST),
        }
        if orders != self._told:
            self._told = orders
            self._reports.send("orders", **orders)
        if self._timer is not None:
            self._loop.cancel(self._timer)
            self._timer = None
        end = directives.next_end(now)
        if end is not None:
            self._timer = self._loop.call_later(min(max(end - now, 0.0) + 0.01, _LONGEST_WAIT), self._order)

    # --- commands ---

    def _take(self, raw: bytes, body: bytes) -> None:
        try:
            command = self._unsealed(raw, body)
            reply_to = _reply_to(raw)
            self._check(command, reply_to)
        except (Unsealed, MalformedProperties, KeyError, TypeError, ValueError) as error:
            self._refused.count(str(error))
        else:
            self._obey(command, reply_to)

    def _unsealed(self, raw: bytes, body: bytes) -> dict[str, Any]:
        """Return a command; to one of another version, answer that."""
        try:
            return unseal(self._key, COMMAND, body)
        except OtherVersion as error:
            reply_to = _reply_to(raw)
            self._check(error.content, reply_to)
            advice = "update it" if error.is_later else "update the host that gave it"
            reason = f"it runs {self._release}, which does not know this command; {advice}"
            self._send(error.content, reply_to, {"error": reason})
            raise

    def _check(self, command: Mapping[str, Any], reply_to: str) -> None:
        try:
            self._guard.check(command)
        except Stale as error:
            self._send(command, reply_to, {"error": str(error)})
            raise

    def _obey(self, command: Mapping[str, Any], reply_to: str) -> None:
        early = time.time() - LIFETIME
        self._waiting = [each for each in self._waiting if float(each[1]["time"]) > early]
        if len(self._surveys) + len(self._waiting) >= _MOST_ASKED:
            self._refused.count(f"{_MOST_ASKED} are not answered yet")
            return
        self._begin_after(int(command.get("sequence", 0)), command, reply_to)

    def _begin_after(self, sequence: int, command: Mapping[str, Any], reply_to: str) -> None:
        """Ask the supervisor what the pool does, once a document of the register is in force."""
        if self._register.directives.sequence < sequence:
            self._waiting.append((sequence, command, reply_to))
            return
        self._number += 1
        number = self._number
        answer = partial(self._answer, number, command, reply_to)
        self._surveys[number] = Survey(self._loop, answer)
        if command.get("host", "") in ("", HOST):
            self._pass_on(number, command)
        self._reports.send("describe", number=number)

    def _pass_on(self, number: int, command: Mapping[str, Any]) -> None:
        """Have the supervisor do what a command says."""
        if command.get("verb") == SCALE:
            workers = command["workers"]
            size = None if workers is None else [workers, bool(command["host"])]
            self._reports.send(SCALE, number=number, name=command["name"], size=size)
        elif command.get("verb") == ROLL:
            self._reports.send(ROLL, number=number, name=command["name"], id=command["id"])

    def _read_supervisor(self) -> None:
        try:
            while message := control.receive(self._supervisor):
                survey = self._surveys.get(message.content["number"])
                if survey is not None:
                    survey.take(message.word, message.content)
        except EOFError:  # the supervisor is dead, and the kernel is about to kill this process
            self._loop.stop()

    def _answer(self, number: int, command: Mapping[str, Any], reply_to: str, groups: list[Any]) -> None:
        survey = self._surveys.pop(number)
        directives = self._register.directives
        found = {"groups": groups, "orders": self._told, "register": directives.as_json()}
        found |= {"faults": survey.faults, "roll": survey.roll}
        self._send(command, reply_to, found)

    def _send(self, command: Mapping[str, Any], reply_to: str, content: Mapping[str, Any]) -> None:
        body = seal(self._key, ANSWER, {"to": command["id"], "host": HOST, **content})
        properties = Properties(content_type=JSON).encode()
        self._outbound.send(Publication(reply_to, properties, body, mandatory=False), _ignore)


def _reply_to(raw: bytes) -> str:
    """Return the queue for the answer; raise Unsealed if it is no direct reply-to."""
    reply_to = Properties.decode(raw).reply_to or ""
    if not reply_to.startswith(DIRECT_REPLY):
        raise Unsealed("it has no direct reply-to")
    return reply_to


def _ignore(_publication: Publication, _result: PublishResult, _reason: str) -> None:
    pass
