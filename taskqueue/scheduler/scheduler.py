"""The scheduler process: it stands by until the broker makes it the leader, and then fires what is due."""

import socket
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from taskqueue.amqp.properties import Properties
from taskqueue.amqp.tables import MalformedProperties
from taskqueue.broker.publisher import Publication, PublishResult
from taskqueue.broker.scheduling import announcement
from taskqueue.broker.standby import StandbyProcess
from taskqueue.broker.subscription import Delivery
from taskqueue.config import AmqpSettings
from taskqueue.messages.content import JSON
from taskqueue.messages.events import CANCELLED, SCHEDULER, Ended
from taskqueue.messages.names import DIRECT_REPLY
from taskqueue.process.daemon import Signals
from taskqueue.scheduler.commands import Commands, reply_to
from taskqueue.scheduler.firing import Firing
from taskqueue.scheduler.register import RENEW_AFTER, Register, RegisterListener
from taskqueue.scheduler.state import HELLO, KIND, encode
from taskqueue.schedules.definition import Definition
from taskqueue.texts import counted

_LOOK_DELAY: Final = 1.0  # seconds between two looks at the clock, which may be set
_HELLO_DELAY: Final = 60.0  # seconds between two messages with this host's time
_HELLO_LIVES: Final = 2.0  # seconds after which such a message says nothing about the clock
_SOON: Final = 0.001  # seconds


class Scheduler(StandbyProcess, RegisterListener):
    """One scheduler process. All of them share the register; its single active consumer leads."""

    kind = SCHEDULER
    blocked = "fires nothing: the broker has an alarm"

    def __init__(
        self,
        amqp: AmqpSettings,
        definitions: Sequence[Definition],
        signals: Signals,
        on_state: Callable[[str], None],
        *,
        clock: Callable[[], float] = time.time,
        host: str = "",
        renew_after: float = RENEW_AFTER,
    ) -> None:
        """Prepare to `run`.

        Args:
            amqp: the broker's address.
            definitions: the schedules of this host's configuration.
            signals: the source of SIGTERM and SIGHUP.
            on_state: takes the scheduler's state in words.
            clock: returns the time in seconds since 1970.
            host: this host's name; "" for that of the system.
            renew_after: seconds that a message of the register is held.
        """
        super().__init__(amqp, signals, on_state)
        self._definitions = definitions
        self._clock, self._host = clock, host or socket.gethostname()
        self._timer: object = None  # for the next look at the clock
        self._hello: object = None  # for the next message with this host's time
        self._register = Register(self._loop, self._session, self._outbound, self, renew_after=renew_after)
        self._firing = Firing(self._register, self._outbound, clock, self._tell_left_out)
        self._commands = Commands(self._register, self._firing, clock, self._host, self._reply)

    def stand_by(self) -> None:
        """Consume the register."""
        self._register.open()

    def active_state(self) -> str:
        """Return how many schedules this scheduler leads."""
        return f"leads {counted(len(self._register), 'schedule')}" if self._register.is_leading else ""

    # --- the register ---

    def register_open(self) -> None:
        """Tell whoever leads what this host's configuration defines, and its time."""
        self.tell_state()
        self._outbound.send(announcement(f"host {self._host}", self._definitions), _ignore)
        self._say_hello()

    def register_leads(self) -> None:
        """Plan every schedule."""
        for state in self._register.states():
            self._firing.plan(state.name)
        self._look_again()  # after the messages that waited for this

    def register_lost(self) -> None:
        """Fire nothing more."""
        self._firing.clear()
        self._cancel_timer()
        self.tell_state()

    def register_message(self, message: Mapping[str, Any], delivery: Delivery) -> None:
        """Act on a message, which may change when the next tick is due."""
        self._commands.act(message, delivery)
        self._look_again()

    def _reply(self, delivery: Delivery, answer: Mapping[str, Any]) -> None:
        try:
            queue, correlation = reply_to(delivery)
        except MalformedProperties:
            return
        if queue.startswith(DIRECT_REPLY):
            properties = Properties(content_type=JSON, correlation_id=correlation).encode()
            self._outbound.send(Publication(queue, properties, encode(answer), mandatory=False), _ignore)

    def _say_hello(self) -> None:
        """Send this host's time to the leader, which compares it with its own."""
        if self._hello is not None:
            self._loop.cancel(self._hello)
        if self._outbound.is_ready and not self._register.is_leading:
            message = {KIND: HELLO, "host": self._host, "time": self._clock()}
            self._register.send(message, lives=_HELLO_LIVES)
        self._hello = self._loop.call_later(_HELLO_DELAY, self._say_hello)

    def _tell_left_out(self, definition: Definition, tick: float, reason: str) -> None:
        """Have the record tell of a tick that is left out, as of a cancelled workitem."""
        self._events.emit(
            Ended(
                definition.left_out_id(tick),
                definition.worker_type,
                attempt=0,
                outcome=CANCELLED,
                state=CANCELLED,
                ended=tick,
                queued=tick,
                error=f"left out: {reason}",
                tenant=definition.tenant,
                labels=definition.labels,
            )
        )

    # --- the clock ---

    def _look(self) -> None:
        """Fire what is due; look again when the next tick is, or the clock may have been set."""
        self._timer = None
        if not self._register.is_leading:
            return
        self.tell_state()
        self._firing.fire_due()
        self._register.renew()
        due = self._firing.next_due()
        wait = _LOOK_DELAY if due is None else min(_LOOK_DELAY, max(_SOON, due - self._clock()))
        self._timer = self._loop.call_later(wait, self._look)

    def _look_again(self) -> None:
        if self._register.is_leading:
            self._cancel_timer()
            self._timer = self._loop.call_later(0, self._look)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._loop.cancel(self._timer)
            self._timer = None

    def session_unblocked(self) -> None:
        """Fire what became due meanwhile."""
        super().session_unblocked()
        self._look_again()

    # --- the end ---

    def outbound_progress(self) -> None:
        """Look at what is due next, or end: some ticks are written."""
        self._look_again()
        self._end_if_idle()

    def end(self) -> None:
        """Fire nothing new, and end once the published ticks are written."""
        self._firing.end()
        self._end_if_idle()

    def _end_if_idle(self) -> None:
        """End once the published ticks are written: the next leader would fire them again."""
        if self._is_ending and self._firing.is_idle:
            super().end()


def _ignore(_publication: Publication, _result: PublishResult, _reason: str) -> None:
    pass
