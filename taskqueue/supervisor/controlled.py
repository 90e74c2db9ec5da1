"""The controller in the supervisor: a process of the pool that takes the commands of administrators.

The supervisor opens no connection and reads no key. It heeds of the controller's messages only what it knows.
"""

import math
import os
import signal
import socket
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from taskqueue.address import Source
from taskqueue.consumer import control
from taskqueue.errors import ExitStatus, TaskqueueError
from taskqueue.process import children, logs
from taskqueue.process.children import Exit, Slot
from taskqueue.process.daemon import Signals
from taskqueue.process.logs import Log
from taskqueue.process.supervisor_loop import REASONS, report, start
from taskqueue.supervisor.members import become
from taskqueue.supervisor.obeying import Obeying

_LONGEST_HOLD: Final = 10.0  # seconds that the groups wait for a controller that is connected


class ControllerMember:
    """Keeps the controller running, and does what it says."""

    name = "controller"
    state = "runs"  # the pool is ready without it
    failure = ""
    main_pid = 0  # its end stops nothing

    def __init__(self, key: Path, user: str | None, source: Source, obeying: Obeying) -> None:
        """Prepare to start it.

        Args:
            key: the file with the control key.
            user: its Unix user; None: the pool's own.
            source: the source of the broker's address.
            obeying: does what the controller says.
        """
        self.key, self.is_draining = key, False
        self.user = user
        self._source, self._obeying = source, obeying
        self._slot = Slot("controller")
        self._control: socket.socket | None = None
        self._sender = control.Sender()
        self._log = Log("supervisor")
        self._release_at = math.inf  # monotonic; when the groups no longer wait for it

    @property
    def pids(self) -> list[int]:
        """The process, if it runs."""
        return [self._slot.pid] if self._slot.pid else []

    def converge(self) -> None:
        """Start the process if it is missing and due."""
        if self._control is not None:
            self._sender.send_again(self._control)
        if time.monotonic() >= self._release_at:
            self._release(f"it has not read the register for {_LONGEST_HOLD:g} s")
        self._obeying.advance()
        if self._slot.is_due and not self.is_draining:
            start(self._log, self._slot, self._start)

    def _start(self) -> None:
        ours, theirs = control.pair()
        parent = os.getpid()
        try:
            self._slot.fill(children.fork(lambda: self._be(theirs, parent)))
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        self._control = ours

    def _be(self, supervisor: socket.socket, parent: int) -> int:
        from taskqueue.control import key  # noqa: PLC0415 -- the supervisor has no AMQP
        from taskqueue.control.controller import SIGNALS, Controller  # noqa: PLC0415

        amqp_fd = [self._source.descriptor] if self._source.descriptor else []
        children.close_all_but(supervisor.fileno(), *amqp_fd, *logs.take_over("controller"))
        children.set_name("tq:controller")
        children.set_title("taskqueue: controller")
        try:
            if self.user is not None:
                become(self.user)
            children.die_with_parent(parent)
            amqp, secret = self._source.read(), key.read(self.key)
        except TaskqueueError as error:
            Log("controller").critical("%s", error)
            return error.status
        with Signals(SIGNALS) as signals:
            return Controller(amqp, secret, supervisor, signals).run()

    def due(self) -> Iterator[float]:
        """Yield the times of the next start, and of the end of the groups' wait."""
        yield self._release_at
        if (due := self._obeying.due()) is not None:
            yield due
        if not self._slot.pid and not self.is_draining:
            yield self._slot.due
        if self._sender.is_waiting:
            yield time.monotonic() + control.RESEND_DELAY

    def retire(self, *, is_last: bool) -> None:
        """End the process at a reload; if it is the last one, nothing is paused any more."""
        self.drain()
        if is_last:
            self._obeying.end()

    def drain(self) -> None:
        """End the process."""
        if not self.is_draining:
            self.is_draining = True
            self._release_at = math.inf
            for pid in self.pids:
                children.send(pid, signal.SIGTERM)

    def kill(self) -> None:
        """Kill the process."""
        self.is_draining = True
        for pid in self.pids:
            children.kill_group(pid)

    def reload(self) -> None:
        """Replace the process: it reads address and key anew."""
        for pid in self.pids:
            children.send(pid, signal.SIGTERM)

    def files(self) -> Sequence[socket.socket]:
        """Return the socket to the process, if there is one."""
        return [self._control] if self._control is not None else []

    def receive(self) -> None:
        """Receive the controller's messages."""
        try:
            while self._control is not None and (message := control.receive(self._control)):
                self._act_on(message.word, message.content)
        except EOFError:
            self._drop_control()
        except (ValueError, KeyError, TypeError) as error:
            self._log.error("killing the controller, which sent an invalid message: %r", error)
            self._drop_control()
            for pid in self.pids:
                children.kill_group(pid)

    def reap(self, end: Exit) -> bool:
        """Record the end of the process."""
        if end.pid != self._slot.pid:
            return False
        self._drop_control()
        expected = end.code == ExitStatus.OK
        delay = self._slot.vacate(expected=expected)
        if not expected:
            report(self._log, "controller", end, None if self.is_draining else delay)
            if end.code in REASONS:
                self._release("it cannot work")
            else:
                self._expect_orders()
        return True

    def _expect_orders(self) -> None:
        """Begin to count the time that the groups wait; not before, as the broker may be away."""
        if self._obeying.orders.is_awaited and self._release_at == math.inf:
            self._release_at = time.monotonic() + _LONGEST_HOLD

    def _release(self, reason: str) -> None:
        self._release_at = math.inf
        self._obeying.release(reason)

    def _drop_control(self) -> None:
        self._sender.clear()
        if self._control is not None:
            self._control.close()
            self._control = None

    # --- orders and questions ---

    def _act_on(self, word: str, content: dict[str, Any]) -> None:
        if word == "connected":
            self._expect_orders()
        else:
            if word == "orders":
                self._release_at = math.inf
            self._obeying.act_on(word, content, self._tell)

    def described(self, content: dict[str, Any]) -> None:
        """Pass on what a consumer says of its workers."""
        self._tell("described", **content)

    def _tell(self, word: str, **content: Any) -> None:
        if self._control is not None:
            self._sender.send(self._control, word, **content)
