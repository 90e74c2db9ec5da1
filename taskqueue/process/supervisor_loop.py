"""The loop that keeps processes running, for the worker pool, the dispatcher and `taskqueue up`.

A supervisor holds the wanted state and converges on it. Start, crash, reload and stop are the same round:
converge, wait, act.
"""

import contextlib
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final, Protocol

from taskqueue.config import LoggingSettings
from taskqueue.errors import ConfigError, ExitStatus
from taskqueue.process import children, logs, relatives
from taskqueue.process.children import Exit, Slot
from taskqueue.process.daemon import Readiness, Signals, notify, notify_through, watchdog_delay
from taskqueue.process.logs import Log
from taskqueue.texts import shorten

if TYPE_CHECKING:
    from _typeshed import HasFileno

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
_MOST_NOTICES: Final = 16  # received in one round
_STATUS_LIMIT: Final = 1000  # characters
_KILL_TIMEOUT: Final = 5.0  # seconds that killed processes may take to end

#: Exit statuses of processes that cannot start, and that a restart does not help.
REASONS: Final = {
    ExitStatus.PLUGIN: "its plugin cannot be loaded or set up",
    ExitStatus.LOCKED: "another one is running",
    ExitStatus.PRIVILEGES: "it cannot become its user or be isolated",
    ExitStatus.CONFIG: "the configuration cannot be read",
    ExitStatus.REFUSED: "the broker refuses it",
}


class Member(Protocol):
    """One or several processes that belong together."""

    name: str
    state: str  # its status in words; empty until it has begun
    failure: str  # the reason that it has reported for a failed start
    is_draining: bool

    @property
    def pids(self) -> list[int]:
        """Its running processes."""

    @property
    def main_pid(self) -> int:
        """The process that the member needs to work; 0 if it does not run."""

    def converge(self) -> None:
        """Start each process that is missing and due."""

    def due(self) -> Iterator[float]:
        """Yield the monotonic times at which `converge` is due."""

    def drain(self) -> None:
        """Take nothing new, finish what runs, and leave."""

    def kill(self) -> None:
        """End every process now."""

    def reload(self) -> None:
        """Read the configuration again."""

    def files(self) -> Sequence["HasFileno"]:
        """Return what `receive` reads from."""

    def receive(self) -> None:
        """Receive the messages of the processes, without waiting."""

    def reap(self, end: Exit) -> bool:
        """Record the end of a process; return whether it was of this member."""


class SupervisorLoop:
    """Keeps members running until SIGTERM, then gives them `stop_timeout` seconds to finish."""

    def __init__(self, name: str, stop_timeout: float) -> None:
        self.members: list[Member] = []
        self.stop_timeout = stop_timeout
        self.log = Log(name)
        self.reasons: Mapping[ExitStatus, str] = REASONS
        self.in_background = False  # set before `run`, in a daemon without a terminal
        self._logging = LoggingSettings()
        self._signals = Signals(_SIGNALS)
        self._stop_at: float | None = None  # monotonic; set while stopping
        self._is_ready = False
        self._status = ExitStatus.OK
        self._readiness = Readiness()
        self._told = ""  # the last reported status
        self._watchdog: float | None = None

    def run(self, readiness: Readiness) -> ExitStatus:
        """Keep the members running until all have ended after a stop; return the exit status."""
        self._readiness = readiness
        relatives.supervise(self.log.logger.name.rpartition(".")[2])
        self._watchdog = watchdog_delay()
        with self._signals:
            self.begin()
            while not (self.is_stopping and not self._pids()):
                self._converge()
                self._tell()
                self._wait()
        self.log.info("stopped")
        return self._status

    # --- for subclasses ---

    def begin(self) -> None:
        """Make the first members."""

    def reload(self) -> None:
        """Act on SIGHUP."""
        for member in self.members:
            member.reload()

    def summary(self) -> str:
        """Describe the members, for the log line at readiness."""
        return ", ".join(f"{member.name} runs" for member in self.members)

    def reap_other(self, end: Exit) -> None:
        """Handle the end of a child that belongs to no member."""

    def log_as(self, settings: LoggingSettings, owner: str) -> LoggingSettings:
        """Apply logging settings; return those in force.

        A failure raises ConfigError before the supervisor is ready, and is logged afterwards.
        owner -- the owner of log files that root creates
        """
        try:
            wanted = logs.reachable(settings, in_background=self.in_background)
            logs.set_up(wanted, self.log.logger.name, owner)
        except ConfigError as error:
            if not self._is_ready:
                raise
            self.log.error("logging is unchanged: %s", error)
        else:
            self._logging = wanted
        return self._logging

    # --- one round ---

    @property
    def is_stopping(self) -> bool:
        """Whether the supervisor is ending."""
        return self._stop_at is not None

    def _pids(self) -> list[int]:
        return [pid for member in self.members for pid in member.pids]

    def _converge(self) -> None:
        for member in self.members:
            member.converge()
        self.members = [member for member in self.members if member.pids or not member.is_draining]

    def _wait(self) -> None:
        """Wait for a signal, a message or the next due time; act on it."""
        if self._watchdog is not None:
            notify("WATCHDOG=1")
        poll = select.poll()
        poll.register(self._signals, select.POLLIN)
        for member in self.members:
            for file in member.files():
                poll.register(file, select.POLLIN)
        poll.poll(self._patience() * 1000)
        for member in self.members:
            member.receive()
        for number in self._signals.pending():
            self._act_on(number)
        self._enforce_deadline()

    def _patience(self) -> float:
        now = time.monotonic()
        moments = [moment for member in self.members for moment in member.due()]
        if self._stop_at is not None:
            moments.append(self._stop_at)
        if self._watchdog is not None:
            moments.append(now + self._watchdog)
        return max(0.0, min([now + 60.0, *moments]) - now) + 0.001  # poll rounds down, which would spin

    def _act_on(self, number: signal.Signals) -> None:
        if number == signal.SIGCHLD:
            for end in children.reap():
                self._reap(end)
        elif number == signal.SIGHUP:
            if not self.is_stopping:
                self.reload()
        elif not self.is_stopping:
            self.log.info("stopping: running work has %.0f s to finish", self.stop_timeout)
            self.stop(self.stop_timeout)
        else:
            self.log.warning("stopping at once")
            self._kill()

    def _tell(self) -> None:
        """Report readiness once, and from then on each change of the status."""
        begins = not self._is_ready and not self.is_stopping and all(member.state for member in self.members)
        if begins:
            self._is_ready = True
            self.log.info("ready: %s", self.summary())
        status = ", ".join(f"{member.name}: {member.state or 'is started'}" for member in self.members)
        if self._is_ready and status != self._told:
            self._told = status
            self._readiness.tell(shorten(logs.escape(status), _STATUS_LIMIT))
        if begins:
            self._readiness.ready()

    # --- children end ---

    def _reap(self, end: Exit) -> None:
        failed = next((member for member in self.members if member.main_pid == end.pid), None)
        if failed and end.code in self.reasons and not self._is_ready and not self.is_stopping:
            failed.receive()
            self._status = ExitStatus(end.code)
            self._readiness.failed(end.code, f"cannot start: {failed.failure or self.reasons[self._status]}")
            notify(f"STATUS={failed.failure}")
            self.stop(_KILL_TIMEOUT)
        if any(member.main_pid == end.pid for member in self.members):
            relatives.note_end(end.pid)
        if not any(member.reap(end) for member in self.members):
            self.reap_other(end)

    # --- the end ---

    def stop(self, timeout: float) -> None:
        """Begin to stop; processes that still run after `timeout` seconds are killed."""
        relatives.note_stop()
        # The service manager must wait longer than we do.
        notify(f"STOPPING=1\nEXTEND_TIMEOUT_USEC={(timeout + 2 * _KILL_TIMEOUT) * 1_000_000:.0f}")
        self._stop_at = time.monotonic() + timeout
        for member in self.members:
            member.drain()

    def _enforce_deadline(self) -> None:
        if self._stop_at is not None and time.monotonic() >= self._stop_at:
            if pids := self._pids():
                self.log.warning("killing %d processes that did not end in time", len(pids))
            self._kill()
            self._stop_at = time.monotonic() + _KILL_TIMEOUT

    def _kill(self) -> None:
        for member in self.members:
            member.kill()


class Child:
    """A member of one process, which reports by `notify` that it is ready."""

    def __init__(
        self, name: str, run: Callable[[], int], reasons: Mapping[ExitStatus, str] = REASONS
    ) -> None:
        self.name = name
        self.state = ""
        self.failure = ""
        self.is_draining = False
        self._run = run
        self._reasons = reasons
        self._slot = Slot(name)
        self._log = Log("supervisor")
        # Without a name, unlike a service manager's: all users may send to a name in the abstract namespace.
        self._notices, self._line = socket.socketpair(
            socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK
        )

    @property
    def pids(self) -> list[int]:
        """The process, if it runs."""
        return [self._slot.pid] if self._slot.pid else []

    @property
    def main_pid(self) -> int:
        """The process."""
        return self._slot.pid

    def converge(self) -> None:
        """Start the process if it is missing and due."""
        if self._slot.is_due and not self.is_draining:
            parent = os.getpid()
            start(self._log, self._slot, lambda: self._slot.fill(children.fork(lambda: self._be(parent))))

    def _be(self, parent: int) -> int:
        children.die_with_parent(parent)
        notify_through(self._line.fileno())
        return self._run()

    def due(self) -> Iterator[float]:
        """Yield when the process is to be started, if it does not run."""
        if not self._slot.pid and not self.is_draining:
            yield self._slot.due

    def drain(self) -> None:
        """Ask the process to finish; only once, since a second signal ends it at once."""
        if self.is_draining:
            return
        self.is_draining = True
        for pid in self.pids:
            children.send(pid, signal.SIGTERM)

    def kill(self) -> None:
        """Kill the process and what it started."""
        self.is_draining = True
        for pid in self.pids:
            children.kill_group(pid)

    def reload(self) -> None:
        """Pass SIGHUP on."""
        for pid in self.pids:
            children.send(pid, signal.SIGHUP)

    def files(self) -> Sequence["HasFileno"]:
        """Return the socket that the process notifies."""
        return [self._notices]

    def receive(self) -> None:
        """Receive the notices of the process."""
        with contextlib.suppress(BlockingIOError):
            for _ in range(_MOST_NOTICES):
                lines = self._notices.recv(4096).decode("utf-8", "replace").split("\n")
                said = next((line[7:] for line in lines if line.startswith("STATUS=")), "")
                self.failure = said or self.failure
                if self.state or "READY=1" in lines:
                    self.state = self.failure or "runs"

    def reap(self, end: Exit) -> bool:
        """Record the end of the process."""
        if end.pid != self._slot.pid:
            return False
        expected = self._judge(end)
        delay = self._slot.vacate(expected=expected)
        self.state, self.failure = self.state and "ended", ""
        if not expected:
            report(self._log, self._slot.name, end, None if self.is_draining else delay, self._reasons)
        return True

    def _judge(self, end: Exit) -> bool:
        """Return whether an end was expected."""
        return self.is_draining and end.code == ExitStatus.OK


def start(log: Log, slot: Slot, begin: Callable[[], None]) -> None:
    """Start the process of a slot; if the system refuses, set the time of the next attempt."""
    try:
        begin()
    except OSError as error:  # too many processes or open files, perhaps of a plugin
        slot.fill(0)
        delay = slot.vacate(expected=False)
        log.error("%s cannot be started: %s; trying again in %.2g s", slot.name, error.strerror, delay)


def report(
    log: Log,
    who: str,
    end: Exit,
    delay: float | None,
    reasons: Mapping[ExitStatus, str] = REASONS,
) -> None:
    """Log the unexpected end of a process; the next one starts in `delay` seconds, None for never."""
    known = end.code in list(ExitStatus) and reasons.get(ExitStatus(end.code))
    what = f"{known} ({end.cause})" if known else end.cause
    follows = "" if delay is None else f"; the next one starts {f'in {delay:.2g} s' if delay else 'now'}"
    log.error("%s, process %d, ended: %s%s", who, end.pid, what, follows)
