"""A group as the supervisor keeps it: one consumer, its workers, and what is wanted of them."""

import math
import os
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial

from taskqueue.consumer import control
from taskqueue.consumer.suspects import BEAT_DELAY, Handling, Suspects, Vigil
from taskqueue.errors import ExitStatus
from taskqueue.plugins import OwnPlugin
from taskqueue.process import children
from taskqueue.process.children import Exit, Slot
from taskqueue.process.logs import Log
from taskqueue.process.supervisor_loop import report, start
from taskqueue.supervisor.departures import LOOK_DELAY, Departures
from taskqueue.supervisor.members import Blueprint, SharedResources, be_consumer, be_worker


class Group:
    """Keeps one consumer and the wanted number of workers running, until it is told to quiet down."""

    def __init__(self, blueprint: Blueprint, surroundings: SharedResources) -> None:
        """Make a group in which nobody runs yet; `converge` starts them."""
        self.blueprint = blueprint
        self.name = blueprint.settings.name  # the section of the configuration
        self.state = ""  # in the consumer's words; empty until it has tried the broker
        self.failure = ""  # why the consumer cannot work
        self.is_leaving = False
        self._has_explained = False  # whether a worker has shown, or may show, why none can be set up
        self._is_done = False  # whether the consumer only waits for its workers' end
        self._kill_at = math.inf  # monotonic; when workers that have nothing to do any more must be gone
        self.control: socket.socket | None = None
        self._sender = control.Sender()
        self._handling: Handling | None = None  # the consumer's
        self._vigil = Vigil(0.0)
        self._suspects = Suspects()
        self._departures = Departures()
        self._surroundings = surroundings
        self.consumer = Slot(f"consumer of {self.name}")
        self.workers = [Slot(f"{self.name}/{number}") for number in range(1, blueprint.settings.workers + 1)]
        self._log = Log("supervisor", group=self.name)

    @property
    def pids(self) -> list[int]:
        """Every process of the group."""
        return [pid for pid in (self.consumer.pid, *self._worker_pids) if pid]

    @property
    def _worker_pids(self) -> list[int]:
        return [slot.pid for slot in self.workers if slot.pid]

    @property
    def vital(self) -> int:
        """The consumer: without it the workers are of no use."""
        return self.consumer.pid

    def files(self) -> Sequence[socket.socket]:
        """Return what the consumer speaks through."""
        return [self.control] if self.control is not None else []

    def converge(self) -> None:
        """Start whoever is missing and due: the consumer first, workers only beside a consumer."""
        if time.monotonic() >= self._kill_at:
            self._kill_workers()
        self._look_after_all()
        if self.control is not None:
            self._sender.send_again(self.control)
        if self.is_leaving or self._is_done:
            return
        if self.consumer.is_due and not any(slot.pid for slot in self.workers):
            start(self._log, self.consumer, self._start_consumer)
        if self.consumer.pid:
            for slot in self.workers:
                if slot.is_due and not self._sender.is_waiting:
                    start(self._log, slot, partial(self._start_worker, slot))

    def _look_after_all(self) -> None:
        """Kill who hangs: the consumer, or a worker that has closed its socket and does not end."""
        now = time.monotonic()
        if self._handling is not None and (reason := self._vigil.look(self._handling.times(), now)):
            self._log.error("%s, and is killed", reason)
            children.kill_group(self.consumer.pid)
        for pid in self._departures.overdue(now):
            name = next(slot.name for slot in self.workers if slot.pid == pid)
            self._log.error("a worker must be killed: it closed its socket and lives on", worker=name)
            children.kill_group(pid)

    def due(self) -> Iterator[float]:
        """Yield when (monotonic) each empty slot may be filled, and who is left is to be killed."""
        yield self._kill_at
        yield time.monotonic() + self._look_delay
        if not (self.is_leaving or self._is_done or self._sender.is_waiting):
            awaited = self.workers if self.consumer.pid else [self.consumer]
            yield from (slot.due for slot in awaited if not slot.pid)

    @property
    def _look_delay(self) -> float:
        """Seconds until something has to be looked at or sent again, whatever comes meanwhile."""
        if self._sender.is_waiting:
            return control.AGAIN
        return LOOK_DELAY if self._departures else BEAT_DELAY

    def quiet(self) -> None:
        """Take nothing new, finish what runs, and leave."""
        self.is_leaving = True
        if self.consumer.pid:
            children.terminate(self.consumer.pid)

    def surround(self, surroundings: SharedResources) -> None:
        """Take note that what all groups share has changed."""
        self._surroundings = surroundings

    def reload(self) -> None:
        """Have the consumer read the broker's address again, and log as it is wanted now."""
        self._tell_consumer("logging", **asdict(self._surroundings.logging))
        if self.consumer.pid and not self.is_leaving:
            children.reload(self.consumer.pid)

    def kill(self) -> None:
        """End every process now. The broker delivers unacknowledged workitems elsewhere."""
        self.is_leaving, self._kill_at = True, math.inf
        for pid in self.pids:
            children.kill_group(pid)

    def _kill_workers(self) -> None:
        """End workers that hang in `setup` or `teardown`; the consumer follows them."""
        self._kill_at = math.inf
        for slot in self.workers:
            if slot.pid:
                self._log.error("worker %s did not end by itself and is killed", slot.name)
                children.kill_group(slot.pid)

    def hear(self) -> None:
        """Take in what the consumer says."""
        try:
            while self.control is not None and (message := control.receive(self.control)):
                self._heed(message)
        except EOFError:
            self._drop_control()
        except (ValueError, KeyError, TypeError) as error:
            self._log.error("the consumer says what cannot be understood, and is killed: %r", error)
            self._drop_control()
            children.kill_group(self.consumer.pid)

    def _heed(self, message: control.ControlMessage) -> None:
        content = message.content
        if message.word == "state":
            self.state = str(content["state"])
            self._log.info("%s", self.state)
        elif message.word == "failure":
            self.failure = str(content["reason"])
        elif message.word == "done" and not self._is_done:
            self._is_done = True
            self._kill_at = time.monotonic() + self._surroundings.pool.stop_timeout
        elif message.word == "acquitted":
            self._suspects.forget(str(content["key"]))
        elif message.word == "serves":
            self._grant(content["pid"], [str(name) for name in content["types"]])
        elif message.word == "hung_up" and content["pid"] in self._worker_pids:
            self._departures.begin(content["pid"], time.monotonic())
        elif message.word in ("begun", "retires"):
            self._note(message.word, content["pid"])
        elif message.word in ("kill", "dismiss") and content["pid"] in self.pids:
            self._note(message.word, content["pid"])
            children.kill_group(content["pid"])

    def _grant(self, pid: int, worker_types: Sequence[str]) -> None:
        """Let a worker serve what it names, or kill it: its plugin takes what belongs to another."""
        plugin = self.blueprint.settings.worker_type
        has_tasks = isinstance(self.blueprint.plugin, OwnPlugin)
        refusal = self._surroundings.grants.claim(plugin, worker_types, has_tasks=has_tasks)
        if not refusal:
            self._tell_consumer("granted", pid=pid)
        elif pid in self.pids:
            self._log.error("a worker must be killed: %s", refusal)
            children.kill_group(pid)

    def _note(self, word: str, pid: int) -> None:
        for slot in self.workers:
            if slot.pid == pid:
                slot.has_begun |= word in ("begun", "retires")
                self._has_explained &= word != "begun"
                slot.is_retiring |= word == "retires"
                slot.is_dismissed |= word == "dismiss"

    # --- the end of a process ---

    def bury(self, end: Exit) -> bool:
        """Note the end of a process, if it was of this group; tell whether it was."""
        if self.consumer.pid == end.pid:
            self._bury_consumer(end)
            return True
        for slot in self.workers:
            if slot.pid == end.pid:
                self._bury_worker(slot, end)
                return True
        return False

    def _bury_consumer(self, end: Exit) -> None:
        """A consumer takes its workers along: nobody could be told what becomes of their work."""
        self.hear()
        self._drop_control()
        self._is_done, self._kill_at = False, math.inf
        orphans = [slot for slot in self.workers if slot.pid]
        expected = self.is_leaving and end.code == ExitStatus.OK
        self._charge(expected=expected)
        delay = self.consumer.vacate(expected=expected)
        if not expected:
            report(self._log, "consumer", end, None if self.is_leaving else delay)
        for slot in orphans:
            children.kill_group(slot.pid)

    def _charge(self, *, expected: bool) -> None:
        """Charge a consumer's end to the message that it handled, if it handled one."""
        if self._handling is None:
            return
        message = self._handling.message()
        self._handling.close()
        self._handling = None
        if message is not None and not expected:
            number = self._suspects.charge(message)
            self._log.error("the consumer handled a message when it ended; end %d with that message", number)

    def _bury_worker(self, slot: Slot, end: Exit) -> None:
        # Status 0 unasked is a plugin's os._exit(0): expected, it would be started again without delay.
        self.hear()  # it may have said that it retires
        retires = slot.is_retiring and end.code == ExitStatus.OK
        expected = retires or slot.is_dismissed or not self.consumer.pid
        expected |= self.is_leaving and end.code == ExitStatus.OK
        delay = slot.vacate(expected=expected)
        self._departures.end(end.pid)
        self._tell_consumer("died", pid=end.pid, cause=end.cause, peak_memory=end.peak_memory)
        if not expected:
            report(self._log, f"worker {slot.name}", end, None if self.is_leaving else delay)

    def _tell_consumer(self, word: str, files: Sequence[int] = (), **content: object) -> None:
        if self.control is not None:
            self._sender.send(self.control, word, files, **content)

    def _drop_control(self) -> None:
        self._sender.clear()
        if self.control is not None:
            self.control.close()
            self.control = None

    # --- the start of a process ---

    def _start_consumer(self) -> None:
        ours, theirs = control.pair()
        parent = os.getpid()
        self.state = ""
        handling = Handling()
        try:
            be = partial(be_consumer, self.blueprint, self._surroundings, suspects=self._suspects)
            self.consumer.fill(children.fork(lambda: be(supervisor=theirs, handling=handling, parent=parent)))
        except OSError:
            ours.close()
            handling.close()
            raise
        finally:
            theirs.close()
        self.control, self._handling, self._vigil = ours, handling, Vigil(time.monotonic())

    def _start_worker(self, slot: Slot) -> None:
        link, theirs = socket.socketpair()
        giving, using = socket.socketpair()  # see worker/credits.py
        output, their_output = os.pipe()
        parent = os.getpid()
        try:
            be = partial(be_worker, self.blueprint, self._surroundings, explains=not self._has_explained)
            ends = theirs, using
            slot.fill(
                children.fork(lambda: be(name=slot.name, ends=ends, output=their_output, parent=parent))
            )
            files = (link.fileno(), output, giving.fileno(), using.fileno())
            self._tell_consumer("worker", files, pid=slot.pid, name=slot.name)
            self._has_explained = True
        finally:
            for end in (link, theirs, giving, using):
                end.close()
            for descriptor in (output, their_output):
                os.close(descriptor)
