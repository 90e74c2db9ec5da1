"""The controller in the supervisor: a process of the pool that takes the commands of administrators.

The supervisor opens no connection and reads no key. It heeds of the controller's messages only what it knows.
"""

import math
import os
import signal
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

from taskqueue.address import Source
from taskqueue.consumer import control
from taskqueue.control.directives import MOST_WORKERS
from taskqueue.errors import ExitStatus, TaskqueueError
from taskqueue.process import children, logs
from taskqueue.process.children import Exit, Slot
from taskqueue.process.daemon import Signals
from taskqueue.process.logs import Log
from taskqueue.process.supervisor_loop import REASONS, report, start
from taskqueue.supervisor.group import Group
from taskqueue.supervisor.members import Orders, become
from taskqueue.supervisor.roll import Roll
from taskqueue.supervisor.sizes import Size

_LONGEST_HOLD: Final = 10.0  # seconds that the groups wait for a controller that is connected
_LONGEST_NAME: Final = 100  # characters of a worker type (messages/routing.py)
_MOST_TYPES: Final = 2000


class ControlledPool(Protocol):
    """The pool that the controller controls."""

    stop_timeout: float  # seconds that running work has to finish

    @property
    def size_faults(self) -> list[str]:
        """The reasons why numbers of standing commands are not in force."""

    def emptied(self) -> list[dict[str, Any]]:
        """Return the groups that commands have left without workers, as `Group.described` does."""

    def all_groups(self) -> list[Group]:
        """Return the groups, also those that end."""

    def keep_sizes(self, sizes: Mapping[str, Size]) -> None:
        """Give groups the numbers of workers that standing commands name."""

    def scale(self, name: str, size: Size | None) -> str:
        """Give a group a number of workers until the next reload; return "", or why that cannot be."""


class ControllerMember:
    """Keeps the controller running, and does what it says."""

    name = "controller"
    state = "runs"  # the pool is ready without it
    failure = ""
    main_pid = 0  # its end stops nothing

    def __init__(
        self, key: Path, user: str | None, source: Source, orders: Orders, pool: ControlledPool
    ) -> None:
        """Prepare to start it.

        Args:
            key: the file with the control key.
            user: its Unix user; None: the pool's own.
            source: the source of the broker's address.
            orders: is changed to what the controller says.
            pool: does what the controller says.
        """
        self.key, self.is_draining = key, False
        self.user = user
        self._source, self._orders, self._pool = source, orders, pool
        self._slot = Slot("controller")
        self._control: socket.socket | None = None
        self._sender = control.Sender()
        self._log = Log("supervisor")
        self._release_at = math.inf  # monotonic; when the groups no longer wait for it
        self._roll: Roll | None = None  # the last one

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
        if self._roll is not None and not self._roll.is_over:
            self._roll.advance()
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
        if self._roll is not None and (due := self._roll.due()) is not None:
            yield due
        if not self._slot.pid and not self.is_draining:
            yield self._slot.due
        if self._sender.is_waiting:
            yield time.monotonic() + control.RESEND_DELAY

    def retire(self, *, is_last: bool) -> None:
        """End the process at a reload; if it is the last one, nothing is paused any more."""
        self.drain()
        if is_last:
            self._obey([], is_drained=False)
            self._pool.keep_sizes({})

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
        if self._orders.is_awaited and self._release_at == math.inf:
            self._release_at = time.monotonic() + _LONGEST_HOLD

    def _drop_control(self) -> None:
        self._sender.clear()
        if self._control is not None:
            self._control.close()
            self._control = None

    # --- orders and questions ---

    def _act_on(self, word: str, content: dict[str, Any]) -> None:
        if word == "connected":
            self._expect_orders()
        elif word == "orders":
            self._obey(content["paused"], is_drained=bool(content["drained"]))
            self._keep_sizes(content["sizes"])
        elif word == "scale":
            size = None if content["size"] is None else _size(content["size"])
            fault = self._pool.scale(str(content["name"]), size)
            self._tell("done", number=int(content["number"]), fault=fault)
        elif word == "roll":
            fault = self._begin_roll(str(content["id"]), str(content["name"]))
            self._tell("done", number=int(content["number"]), fault=fault)
        elif word == "describe":
            self._describe(int(content["number"]))

    def _obey(self, paused: list[str], *, is_drained: bool) -> None:
        self._release_at = math.inf
        names = tuple(str(name)[:_LONGEST_NAME] for name in paused[:_MOST_TYPES])
        orders = self._orders
        before = orders.is_awaited, orders.is_drained, orders.paused
        orders.is_awaited, orders.is_drained, orders.paused = False, is_drained, names
        if before[1:] != (is_drained, names):
            self._log.info("%s", orders.in_words())
        if before != (False, is_drained, names):
            for group in self._pool.all_groups():
                group.obey()

    def _keep_sizes(self, sizes: dict[str, Any]) -> None:
        named = list(sizes.items())[:_MOST_TYPES]
        self._pool.keep_sizes({str(name)[:_LONGEST_NAME]: _size(plain) for name, plain in named})

    def _begin_roll(self, command: str, name: str) -> str:
        """Begin to replace the workers of a group or type, "" for all; return "", or why that cannot be."""
        if self._roll is not None and not self._roll.is_over:
            return "another roll is going on"
        named = [each for each in self._pool.all_groups() if not each.is_draining]
        groups = [each for each in named if name in ("", each.name, each.blueprint.settings.worker_type)]
        if groups:
            self._roll = Roll(command, groups, self._pool.stop_timeout)
            self._log.info("rolling %s", ", ".join(group.name for group in groups))
            self._roll.advance()
        return ""

    def _release(self, reason: str) -> None:
        """Let the groups take work without the controller: it must not be what stops a pool."""
        self._release_at = math.inf
        if self._orders.is_awaited:
            self._orders.is_awaited = False
            self._log.error(
                "the groups take work though the controller has not said what is paused: %s", reason
            )
            for group in self._pool.all_groups():
                group.obey()

    def _describe(self, number: int) -> None:
        groups = self._pool.all_groups()
        for group in groups:
            self._tell("group", number=number, **group.described())
        for about in self._pool.emptied():
            self._tell("group", number=number, **about)
        asked = [group.consumer.pid for group in groups if group.ask(number)]
        roll = None if self._roll is None else self._roll.described()
        self._tell("asked", number=number, consumers=asked, faults=self._pool.size_faults, roll=roll)

    def described(self, content: dict[str, Any]) -> None:
        """Pass on what a consumer says of its workers."""
        self._tell("described", **content)

    def _tell(self, word: str, **content: Any) -> None:
        if self._control is not None:
            self._sender.send(self._control, word, **content)


def _size(plain: Any) -> Size:
    """Return a number of workers; raise ValueError if it can be none."""
    workers, is_own = plain
    if not isinstance(workers, int) or not 0 <= workers <= MOST_WORKERS:
        raise ValueError(f"a number of workers of {workers!r:.20}")
    return Size(workers, bool(is_own))
