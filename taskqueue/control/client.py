"""Commands of administrators to the pools of all hosts, and their answers."""

from collections.abc import Collection
from typing import Any, Final

from taskqueue.amqp.properties import Properties
from taskqueue.broker.loop import EventLoop
from taskqueue.broker.outbound import Outbound, OutboundListener
from taskqueue.broker.publisher import Publication, PublishResult
from taskqueue.broker.question import run_session
from taskqueue.broker.session import Session
from taskqueue.broker.topology import CONTROL
from taskqueue.config import AmqpSettings
from taskqueue.control.answers import Answers
from taskqueue.control.controller import ANSWER, COMMAND
from taskqueue.control.directives import Directives
from taskqueue.control.register import Change, ControlRegister, RegisterListener
from taskqueue.control.seal import OtherVersion, Unsealed, seal, unseal
from taskqueue.errors import CommandRefused, NoPool, NoRegister
from taskqueue.messages.content import JSON
from taskqueue.messages.forwarding import new_id
from taskqueue.messages.names import DIRECT_REPLY
from taskqueue.process.logs import Log

_OTHER_POOLS: Final = 0.05  # seconds that a second pool of a host may answer later than the first
_REGISTER_TIMEOUT: Final = 10.0  # seconds to read and write the register


class Command(OutboundListener, RegisterListener):
    """One command to all pools."""

    def __init__(self, amqp: AmqpSettings, key: bytes, *, timeout: float) -> None:
        """Prepare to `ask` or to `change`.

        Args:
            amqp: the broker's address.
            key: the control key.
            timeout: seconds to wait for answers.
        """
        self._key, self._timeout = key, timeout
        self._loop = EventLoop()
        self._session = Session(self._loop, amqp, "taskqueue control", on_error=self._loop.fail)
        self._outbound = Outbound(self._loop, self._session, self, on_reply=self._take)
        self._register: ControlRegister | None = None
        self._change: Change | None = None
        self._is_changing = False
        self.id = new_id()
        self._content: dict[str, Any] = {}
        self._sequence = 0  # of the document that the pools must know before they answer
        self._known: set[str] = set()  # hosts with a pool, by the registers of those that have answered
        self._is_asked = False
        self._is_known = False  # whether a register has named the hosts
        self._is_ending = False
        self.answers = Answers()

    def ask(self, **content: Any) -> Answers:
        """Send a command to all pools; return their answers, in the order of their hosts' names.

        content -- of the command; without any, it asks what they do

        Raises:
            NoPool: no pool has answered.
            BrokerUnavailable: no connection, or it was lost.
            BrokerRefused: wrong user, password or virtual host.
        """
        self._content = content
        self._run()
        if not self.answers.pools and not self.answers.errors:
            raise NoPool(
                f"no worker pool answers within {self._timeout:g} s: does one run with this control key?"
            )
        return self.answers

    def change(self, change: Change) -> Answers:
        """Change the standing commands; return the answers of the pools that obey the new ones.

        change -- returns the new directives; it may be called several times, and may raise CommandRefused

        Raises:
            CommandRefused: by `change`, or there are too many names.
            NoRegister: the standing commands cannot be written.
            BrokerUnavailable: no connection, or it was lost.
            BrokerRefused: wrong user, password or virtual host.
        """
        self._change = change
        self._begin_register(_REGISTER_TIMEOUT)
        self._run()
        return self.answers

    def read(self) -> Directives:
        """Return the standing commands, without asking the pools.

        Raises:
            NoRegister: they cannot be read in time.
            BrokerUnavailable: no connection, or it was lost.
            BrokerRefused: wrong user, password or virtual host.
        """
        self._begin_register(self._timeout)
        run_session(self._loop, self._session)
        return Directives() if self._register is None else self._register.directives

    def _begin_register(self, timeout: float) -> None:
        self._register = ControlRegister(
            self._loop, self._session, self._outbound, key=self._key, listener=self, log=Log("control")
        )
        error = NoRegister(f"the register of standing commands cannot be read in {timeout:g} s")
        self._loop.call_later(timeout, lambda: None if self._is_asked else self._loop.fail(error))

    def _run(self) -> None:
        run_session(self._loop, self._session)
        answered = {each["host"] for each in self.answers.pools} | self.answers.errors.keys()
        self.answers.pools.sort(key=lambda each: str(each["host"]))
        self.answers.silent = sorted(self._known - answered)

    # --- the register ---

    def outbound_ready(self) -> None:
        """Read the register if it is to be changed; else ask."""
        if self._register is not None:
            self._register.outbound_ready()
        else:
            self._ask()

    def register_read(self) -> None:
        """Make the change, once; without one, all is read that was wanted."""
        if self._change is None and not self._is_changing:
            self._loop.stop()
        change, self._change = self._change, None
        if change is not None and self._register is not None:
            self._is_changing = True
            self._register.change(lambda found: self._changed(change, found), self._written)

    def register_missing(self, reason: str) -> None:
        """Fail."""
        self._loop.fail(NoRegister(f"there are no standing commands on this broker: {reason}"))

    def _changed(self, change: Change, found: Directives) -> Directives:
        changed = change(found)
        if changed.is_full():
            raise CommandRefused("there are too many standing commands, or hosts: end some, or forget hosts")
        return changed

    def _written(self) -> None:
        if self._register is not None:
            self._sequence = self._register.directives.sequence
            self._known |= self._register.directives.hosts.keys()
            self._is_known = True
        self._ask()

    # --- the question and the answers ---

    def _ask(self) -> None:
        if self._is_asked:
            return
        self._is_asked = True
        self._loop.call_later(self._timeout, self._loop.stop)
        body = seal(self._key, COMMAND, {**self._content, "id": self.id, "sequence": self._sequence})
        properties = Properties(content_type=JSON, reply_to=DIRECT_REPLY).encode()
        publication = Publication("", properties, body, exchange=CONTROL, declares=False)
        self._outbound.send(publication, self._published)

    def _published(self, _publication: Publication, result: PublishResult, _reason: str) -> None:
        if result is PublishResult.RETURNED:  # nobody has bound a queue
            self._loop.stop()

    def _take(self, _raw: bytes, body: bytes) -> None:
        try:
            answer = unseal(self._key, ANSWER, body)
        except OtherVersion as error:
            answer = {"error": str(error), **error.content}
        except Unsealed:
            return
        if answer.get("to") != self.id:
            return
        host = str(answer["host"])
        if "error" in answer:
            self.answers.errors[host] = str(answer["error"])
        else:
            self.answers.pools.append(answer)
            self._known |= answer["register"]["hosts"].keys()
            self._is_known = True
        if self._have_all_answered() and not self._is_ending:
            self._is_ending = True
            self._loop.call_later(_OTHER_POOLS, self._end)

    def _have_all_answered(self) -> bool:
        """Tell whether no more answers are expected; a host that refuses a command names no others."""
        answered = {each["host"] for each in self.answers.pools} | self.answers.errors.keys()
        return self._is_known and self._known <= answered

    def _end(self) -> None:
        """Stop unless another host has become known meanwhile."""
        self._is_ending = self._have_all_answered()
        if self._is_ending:
            self._loop.stop()


def known_host(host: str, known: Collection[str]) -> str:
    """Return a host's name; raise CommandRefused if no pool has ever run there."""
    if host in known:
        return host
    names = ", ".join(sorted(known)[:20]) or "none"
    raise CommandRefused(f"no pool with a control key has run on host {host!r:.102}; known are: {names}")
