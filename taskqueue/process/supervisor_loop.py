"""Keeping processes running: the loop that the worker pool, the dispatcher and `taskqueue up` share.

A supervisor holds what is wanted and converges on it. Start, crash, reload and stop are the same round:
converge, wait, act on what was heard.
"""

import contextlib
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Final, Protocol

from taskqueue.config import LoggingSettings
from taskqueue.errors import ConfigError, ExitStatus
from taskqueue.process import children, logs
from taskqueue.process.children import Exit, Slot
from taskqueue.process.daemon import Readiness, Signals, notify, notify_through, watchdog_delay
from taskqueue.process.logs import Log
from taskqueue.texts import shorten

if TYPE_CHECKING:
    from _typeshed import HasFileno

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
_MOST_NOTICES: Final = 16  # heard in one round
_STATUS_LIMIT: Final = 1000  # characters
_KILL_TIMEOUT: Final = 5.0  # seconds that killed processes may take to vanish

#: Exit statuses that say why a process could not begin; it will not do better by itself.
REASONS: Final = {
    ExitStatus.PLUGIN: "its plugin cannot be loaded or set up",
    ExitStatus.LOCKED: "another one is running",
    ExitStatus.PRIVILEGES: "it cannot become its user",
    ExitStatus.CONFIG: "the configuration cannot be read",
    ExitStatus.REFUSED: "the broker refuses it",
}


class Member(Protocol):
    """One or several processes that belong together."""

    name: str
    state: str  # what it does, in words; empty until it has begun
    failure: str  # why it cannot, in words, if it said so
    is_leaving: bool

    @property
    def pids(self) -> list[int]:
        """Every process of it that runs."""

    @property
    def vital(self) -> int:
        """The pid of the process without which nothing of it works."""

    def converge(self) -> None:
        """Start whoever is missing and due."""

    def due(self) -> Iterator[float]:
        """Yield when (monotonic) somebody is to be started."""

    def quiet(self) -> None:
        """Take nothing new, finish what runs, and leave."""

    def kill(self) -> None:
        """End every process now."""

    def reload(self) -> None:
        """Read the configuration again."""

    def files(self) -> Sequence["HasFileno"]:
        """Return what `hear` reads from."""

    def hear(self) -> None:
        """Take in what the processes say, without waiting."""

    def bury(self, end: Exit) -> bool:
        """Note the end of a process, if it was of this member; tell whether it was."""


class SupervisorLoop:
    """Keeps members running until SIGTERM, then gives them `stop_timeout` seconds to finish."""

    def __init__(self, name: str, stop_timeout: float) -> None:
        """Begin with no members; `name` is what the supervisor is called in the log."""
        self.members: list[Member] = []
        self.stop_timeout = stop_timeout
        self.log = Log(name)
        self.in_background = False  # set before `run` where there is no terminal to log to
        self._logging = LoggingSettings()
        self._signals = Signals(_SIGNALS)
        self._stop_at: float | None = None  # monotonic; set while stopping
        self._is_ready = False
        self._status = ExitStatus.OK
        self._readiness = Readiness()
        self._told = ""  # what the supervisor does, as last told
        self._watchdog: float | None = None

    def run(self, readiness: Readiness) -> ExitStatus:
        """Keep the members running; return how it ended, when all of them are gone."""
        self._readiness = readiness
        self._watchdog = watchdog_delay()
        with self._signals:
            self.begin()
            while not (self.is_stopping and not self._pids()):
                self._converge()
                self._tell()
                self._wait()
        self.log.info("stopped")
        return self._status

    # --- what a supervisor of a certain kind adds ---

    def begin(self) -> None:
        """Make the first members."""

    def reload(self) -> None:
        """Act on SIGHUP."""
        for member in self.members:
            member.reload()

    def summary(self) -> str:
        """Say what is kept, for the line that tells that it is ready."""
        return ", ".join(f"{member.name} runs" for member in self.members)

    def bury_stranger(self, end: Exit) -> None:
        """Note the end of a child that no member knows."""

    def log_as(self, settings: LoggingSettings, owner: str) -> LoggingSettings:
        """Log as the settings say from now on; return what is in force.

        A failed setup is a ConfigError before the supervisor is ready, and a line in the log after.
        owner -- the user whom log files are given to by root
        """
        try:
            wanted = logs.reachable(settings, in_background=self.in_background)
            logs.set_up(wanted, self.log.logger.name, owner)
        except ConfigError as error:
            if not self._is_ready:
                raise
            self.log.error("logging stays as it was: %s", error)
        else:
            self._logging = wanted
        return self._logging

    # --- one round ---

    @property
    def is_stopping(self) -> bool:
        """Whether the end has begun."""
        return self._stop_at is not None

    def _pids(self) -> list[int]:
        return [pid for member in self.members for pid in member.pids]

    def _converge(self) -> None:
        for member in self.members:
            member.converge()
        self.members = [member for member in self.members if member.pids or not member.is_leaving]

    def _wait(self) -> None:
        """Wait for a signal, a member's word or the next start that is due; act on it."""
        if self._watchdog is not None:
            notify("WATCHDOG=1")
        poll = select.poll()
        poll.register(self._signals, select.POLLIN)
        for member in self.members:
            for file in member.files():
                poll.register(file, select.POLLIN)
        poll.poll(self._patience() * 1000)
        for member in self.members:
            member.hear()
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
        return max(0.0, min([now + 60.0, *moments]) - now) + 0.001  # poll would round down and spin

    def _act_on(self, number: signal.Signals) -> None:
        if number == signal.SIGCHLD:
            for end in children.reap():
                self._bury(end)
        elif number == signal.SIGHUP:
            if not self.is_stopping:
                self.reload()
        elif not self.is_stopping:
            self.log.info("stopping: %.0f s to finish what is running", self.stop_timeout)
            self.stop(self.stop_timeout)
        else:
            self.log.warning("stopping at once")
            self._kill()

    def _tell(self) -> None:
        """Tell once that everything works, and from then on what is going on."""
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

    def _bury(self, end: Exit) -> None:
        vital = next((member for member in self.members if member.vital == end.pid), None)
        if vital and end.code in REASONS and not self._is_ready and not self.is_stopping:
            vital.hear()
            self._status = ExitStatus(end.code)
            self._readiness.failed(end.code, f"cannot start: {vital.failure or REASONS[self._status]}")
            notify(f"STATUS={vital.failure}")
            self.stop(_KILL_TIMEOUT)
        if not any(member.bury(end) for member in self.members):
            self.bury_stranger(end)

    # --- the end ---

    def stop(self, timeout: float) -> None:
        """Begin the end; whoever is still there after `timeout` seconds is killed."""
        # The service manager shall wait as long as we do.
        notify(f"STOPPING=1\nEXTEND_TIMEOUT_USEC={(timeout + 2 * _KILL_TIMEOUT) * 1_000_000:.0f}")
        self._stop_at = time.monotonic() + timeout
        for member in self.members:
            member.quiet()

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
    """A member that is one process, which tells by `notify` that it is ready."""

    def __init__(self, name: str, run: Callable[[], int]) -> None:
        """Keep a process that does `run`; `name` is what it is called in the log."""
        self.name = name
        self.state = ""
        self.failure = ""
        self.is_leaving = False
        self._run = run
        self._slot = Slot(name)
        self._log = Log("supervisor")
        # Not by a name, as a service manager's: every user may send to a name in the abstract namespace.
        self._notices, self._line = socket.socketpair(
            socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK
        )

    @property
    def pids(self) -> list[int]:
        """The process, if it runs."""
        return [self._slot.pid] if self._slot.pid else []

    @property
    def vital(self) -> int:
        """The process."""
        return self._slot.pid

    def converge(self) -> None:
        """Start the process if it is missing and due."""
        if self._slot.is_due and not self.is_leaving:
            parent = os.getpid()
            start(self._log, self._slot, lambda: self._slot.fill(children.fork(lambda: self._be(parent))))

    def _be(self, parent: int) -> int:
        children.die_with_parent(parent)
        notify_through(self._line.fileno())
        return self._run()

    def due(self) -> Iterator[float]:
        """Yield when the process is to be started, if it does not run."""
        if not self._slot.pid and not self.is_leaving:
            yield self._slot.due

    def quiet(self) -> None:
        """Ask the process to finish; once, since twice means at once."""
        if self.is_leaving:
            return
        self.is_leaving = True
        for pid in self.pids:
            children.terminate(pid)

    def kill(self) -> None:
        """Kill the process and what it started."""
        self.is_leaving = True
        for pid in self.pids:
            children.kill_group(pid)

    def reload(self) -> None:
        """Pass SIGHUP on."""
        for pid in self.pids:
            children.reload(pid)

    def files(self) -> Sequence["HasFileno"]:
        """Return the socket that the process notifies."""
        return [self._notices]

    def hear(self) -> None:
        """Take in what the process notifies."""
        with contextlib.suppress(BlockingIOError):
            for _ in range(_MOST_NOTICES):
                lines = self._notices.recv(4096).decode("utf-8", "replace").split("\n")
                said = next((line[7:] for line in lines if line.startswith("STATUS=")), "")
                self.failure = said or self.failure
                if self.state or "READY=1" in lines:
                    self.state = self.failure or "runs"

    def bury(self, end: Exit) -> bool:
        """Note the end of the process."""
        if end.pid != self._slot.pid:
            return False
        expected = self.is_leaving and end.code == ExitStatus.OK
        delay = self._slot.vacate(expected=expected)
        self.state, self.failure = self.state and "ended", ""
        if not expected:
            report(self._log, self._slot.name, end, None if self.is_leaving else delay)
        return True


def start(log: Log, slot: Slot, begin: Callable[[], None]) -> None:
    """Start a process for a slot; where there is no room for one, note when to try again."""
    try:
        begin()
    except OSError as error:  # of processes or open files: a plugin may have used up what there is
        slot.fill(0)
        delay = slot.vacate(expected=False)
        log.error("%s cannot be started: %s; trying again in %.2g s", slot.name, error.strerror, delay)


def report(log: Log, who: str, end: Exit, delay: float | None) -> None:
    """Log the unexpected end of a process, and when the next one starts (in `delay` seconds; None: never)."""
    known = end.code in list(ExitStatus) and REASONS.get(ExitStatus(end.code))
    what = f"{known} ({end.cause})" if known else end.cause
    follows = "" if delay is None else f"; the next one starts {f'in {delay:.2g} s' if delay else 'now'}"
    log.error("%s, process %d, ended: %s%s", who, end.pid, what, follows)
