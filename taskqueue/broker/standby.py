"""A process of a dispatcher daemon that stands by until the broker makes it the active one of its kind."""

import signal
import time
from abc import abstractmethod
from collections.abc import Callable
from typing import ClassVar, Final

from taskqueue.broker.events import EventPublisher
from taskqueue.broker.loop import EventLoop
from taskqueue.broker.outbound import Outbound, OutboundListener
from taskqueue.broker.session import Session, SessionListener
from taskqueue.config import AmqpSettings
from taskqueue.errors import BrokerRefused, BrokerUnavailable, ExitStatus
from taskqueue.messages.events import ProcessState
from taskqueue.process.daemon import Signals
from taskqueue.process.logs import Log

SIGNALS: Final = (signal.SIGTERM, signal.SIGHUP)  # both end the process

_STOP_TIMEOUT: Final = 5.0  # seconds until the process ends although the broker does not answer


class StandbyProcess(SessionListener, OutboundListener):
    """One of several processes that consume one queue, of which its single active consumer works."""

    #: The process's kind, for events, the log and the connection's name.
    kind: ClassVar[str]
    #: The state in words while the broker has an alarm.
    blocked: ClassVar[str]

    def __init__(self, amqp: AmqpSettings, signals: Signals, on_state: Callable[[str], None]) -> None:
        """Prepare to `run`.

        Args:
            amqp: the broker's address.
            signals: the source of SIGTERM and SIGHUP.
            on_state: takes the process's state in words.
        """
        self.failure = ""  # why it cannot work, in words
        self._signals, self._on_state = signals, on_state
        self._status = ExitStatus.OK
        self._is_ending = False
        self._state = ""  # in words
        self._log = Log(self.kind)
        self._loop = EventLoop()
        # One connection, unlike dispatchers: a process that the broker takes for gone cannot publish, either.
        self._session = Session(self._loop, amqp, f"taskqueue {self.kind}", on_error=self._on_error)
        self._outbound = Outbound(self._loop, self._session, self)
        # Of its own, as publications of an active process are forgotten once another one is active.
        self._told = Outbound(self._loop, self._session, _Progress(self._events_settled))
        self._events = EventPublisher[Callable[[], None]](self._loop, self._session, self._told, self.kind)
        self._events.on_recorded = lambda recorded: recorded()
        self._is_leaving = False

    @abstractmethod
    def stand_by(self) -> None:
        """Consume the queue: the broker can be reached."""

    @abstractmethod
    def active_state(self) -> str:
        """Return the state in words while this process is active; "" while it stands by."""

    def run(self) -> ExitStatus:
        """Stand by and work until SIGTERM or SIGHUP."""
        self._loop.watch(self._signals, self._act_on_signals)
        self._events.report_process(lambda: ProcessState(time.time(), self._state))
        self._session.attach(self)  # after the queue's owner, whose state it reports
        self._tell("connects")  # the daemon is ready without it: its queue may yet have to be declared
        self._session.open()
        self._loop.run()
        return self._status

    def end(self) -> None:
        """End the process once its last event is confirmed; then another one is active at once.

        The connection ends with the process, as by a kill: a consumer that is cancelled holds its messages
        until its channel is closed, and the next process would get newer ones before these.
        """
        self._is_leaving = True
        self._events.say_goodbye()
        self._leave()

    def _events_settled(self) -> None:
        self.outbound_progress()  # for what waited for them
        self._leave()

    def _leave(self) -> None:
        if self._is_leaving and not self._told.unsettled:
            self._loop.stop()

    # --- the state ---

    def tell_state(self) -> None:
        """Report the state if it has changed. The connection must be up."""
        self._tell(self.blocked if self._session.is_blocked else self.active_state() or "stands by")

    def _tell(self, state: str) -> None:
        if state != self._state:
            self._state = state
            self._on_state(state)
            self._events.report_state()

    # --- the connection ---

    def outbound_ready(self) -> None:
        """Stand by."""
        if not self._is_ending:
            self.stand_by()

    def session_down(self) -> None:
        """Report the state."""
        self._tell("waits for the broker")

    def session_blocked(self) -> None:
        """Report the state."""
        self.tell_state()

    def session_unblocked(self) -> None:
        """Report the state."""
        self.tell_state()

    def _on_error(self, error: BrokerUnavailable | BrokerRefused) -> None:
        if self._session.is_refused(error):
            self._log.critical("%s", error)
            self.failure = str(error)
            self._status = ExitStatus.REFUSED
            self._loop.stop()
            return
        self._log.warning("%s; trying again", error)
        self._tell("waits for the broker")

    # --- the end ---

    def _act_on_signals(self) -> None:
        if not any(self._signals.pending()):
            return
        if self._is_ending or self._session.is_blocked:  # an alarm: nothing is confirmed
            self._loop.stop()
            return
        self._is_ending = True
        self._loop.call_later(_STOP_TIMEOUT, self._loop.stop)
        self.end()


class _Progress(OutboundListener):
    """Calls back when publications have been settled."""

    def __init__(self, then: Callable[[], None]) -> None:
        self._then = then

    def outbound_progress(self) -> None:
        """Call back."""
        self._then()
