"""A group in the supervisor: one consumer and its workers."""

import math
import os
import signal
import socket
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

from taskqueue.consumer import control
from taskqueue.consumer.suspects import (
    BEAT_DELAY,
    LIMITED_SILENCE,
    LONGEST_SILENCE,
    Handling,
    Suspects,
    Watchdog,
)
from taskqueue.errors import ExitStatus
from taskqueue.plugins import OwnPlugin
from taskqueue.process import children
from taskqueue.process.cgroups import Boundaries
from taskqueue.process.children import Exit, Slot
from taskqueue.process.logs import Log
from taskqueue.process.supervisor_loop import report, start
from taskqueue.supervisor.autoscale import Autoscaler, Demand, WorkerUse
from taskqueue.supervisor.exits import CHECK_DELAY, ExitTimeouts
from taskqueue.supervisor.members import Blueprint, SharedResources, run_consumer, run_worker
from taskqueue.supervisor.slots import WorkerSlots
from taskqueue.texts import counted


class Group:
    """Keeps one consumer and the wanted number of workers running, until it is drained."""

    def __init__(self, blueprint: Blueprint, shared: SharedResources) -> None:
        self.blueprint = blueprint
        self.name = blueprint.settings.name  # the section of the configuration
        self.state = ""  # as the consumer reports it; empty until it has tried to connect
        self.failure = ""  # the reason that a consumer has reported for a failed start
        self.is_draining = False
        self._has_explained = False  # whether a worker shows the traceback of a failed setup
        self._is_done = False  # whether the consumer only waits for the end of its workers
        self._kill_at = math.inf  # monotonic; when workers without work are killed
        self.control: socket.socket | None = None
        self._sender = control.Sender()
        self._handling: Handling | None = None  # the consumer's
        self._watchdog = Watchdog(0.0)
        self._suspects = Suspects()
        self._seat = uuid.uuid4().hex
        self._exit_timeouts = ExitTimeouts()
        self.shared = shared  # by all groups of the pool
        self._boundaries = Boundaries.of(blueprint.settings)
        self.consumer = Slot(f"consumer of {self.name}")
        self.workers = WorkerSlots(self.name, blueprint.settings.workers)
        self._use = WorkerUse()
        self._scaler = Autoscaler.of(blueprint.settings, time.monotonic())
        self._log = Log("supervisor", group=self.name)

    @property
    def pids(self) -> list[int]:
        """The running processes of the group."""
        return [pid for pid in (self.consumer.pid, *self.workers.pids) if pid]

    @property
    def main_pid(self) -> int:
        """The consumer: the workers depend on it."""
        return self.consumer.pid

    def files(self) -> Sequence[socket.socket]:
        """Return the socket to the consumer, if there is one."""
        return [self.control] if self.control is not None else []

    def converge(self) -> None:
        """Start each process that is missing and due: first the consumer, then the workers."""
        if time.monotonic() >= self._kill_at:
            self._kill_workers()
        self.shared.cgroups.remove_ended()
        self._kill_hung()
        if self.control is not None:
            self._sender.send_again(self.control)
        if self.is_draining or self._is_done:
            return
        if self.consumer.is_due and not self.workers.running:
            start(self._log, self.consumer, self._start_consumer)
        if self.consumer.pid:
            for slot in self.workers:
                if slot.is_due and not self._sender.is_waiting:
                    start(self._log, slot, partial(self._start_worker, slot))

    def resize(self, number: int) -> None:
        """Have another number of workers: start more, or let the last ones end after their workitems."""
        for pid in self.workers.resize(number):
            self._tell_consumer("retire", pid=pid)
        self._tell_consumer("resize", workers=number)

    def _kill_hung(self) -> None:
        """Kill a consumer that hangs, and workers that have closed their socket and do not end."""
        now = time.monotonic()
        if self._handling is not None and (reason := self._watchdog.check(self._handling.times(), now)):
            self._log.error("%s; killing it", reason)
            children.kill_group(self.consumer.pid)
        for pid in self._exit_timeouts.overdue(now):
            if (slot := self.workers.find(pid)) is None:
                continue
            slot.fault = "it closed its connection to the consumer and did not end"
            self._log.error("killing worker: %s", slot.fault, worker=slot.name)
            children.kill_group(pid)

    def due(self) -> Iterator[float]:
        """Yield the monotonic times of the next starts, kills and checks."""
        yield self._kill_at
        yield time.monotonic() + self._check_delay
        if not (self.is_draining or self._is_done or self._sender.is_waiting):
            awaited = self.workers if self.consumer.pid else [self.consumer]
            yield from (slot.due for slot in awaited if not slot.pid)

    @property
    def _check_delay(self) -> float:
        """Seconds until the next check, or until a waiting message is sent again."""
        if self._sender.is_waiting:
            return control.RESEND_DELAY
        return CHECK_DELAY if self._exit_timeouts else BEAT_DELAY

    def obey(self) -> None:
        """Pass the orders of the controller on to the consumer."""
        self._tell_consumer("orders", **self.shared.orders.as_message())

    def retire(self, slot: Slot) -> None:
        """Have the consumer end a worker after its workitem; another one takes its place."""
        self._tell_consumer("retire", pid=slot.pid)

    def described(self) -> dict[str, Any]:
        """Return the group and its processes, for administrators."""
        workers = [{"name": slot.name, "pid": slot.pid, "does": "starts"} for slot in self.workers]
        about = {"name": self.name, "type": self.blueprint.settings.worker_type, "state": self.state}
        return about | {"pid": self.consumer.pid, "workers": workers, "ends": self.is_draining}

    def ask(self, number: int) -> bool:
        """Ask the consumer what the workers do; return whether there is one to ask.

        number -- of the question; `described` takes each part of the answer
        """
        self._tell_consumer("describe", number=number)
        return self.control is not None

    def drain(self) -> None:
        """Take nothing new, finish what runs, and leave."""
        self.is_draining = True
        if self.consumer.pid:
            children.send(self.consumer.pid, signal.SIGTERM)

    def reload(self) -> None:
        """Make the consumer apply the logging settings and read the broker's address again."""
        self._tell_consumer("logging", **asdict(self.shared.logging))
        if self.consumer.pid and not self.is_draining:
            children.send(self.consumer.pid, signal.SIGHUP)

    def kill(self) -> None:
        """Kill all processes. The broker redelivers unacknowledged workitems to other consumers."""
        self.is_draining, self._kill_at = True, math.inf
        for pid in self.pids:
            children.kill_group(pid)

    def _kill_workers(self) -> None:
        """Kill workers that hang in `setup` or `teardown`; then the consumer ends."""
        self._kill_at = math.inf
        for slot in self.workers.running:
            self._log.error("killing worker %s, which did not end by itself", slot.name)
            children.kill_group(slot.pid)

    def receive(self) -> None:
        """Receive the consumer's messages, without waiting."""
        try:
            while self.control is not None and (message := control.receive(self.control)):
                self._act_on(message)
        except EOFError:
            self._drop_control()
        except (ValueError, KeyError, TypeError) as error:
            self._log.error("killing the consumer, which sent an invalid message: %r", error)
            self._drop_control()
            children.kill_group(self.consumer.pid)

    def _act_on(self, message: control.ControlMessage) -> None:
        content = message.content
        if message.word == "state":
            self.state = str(content["state"])
            self._log.info("%s", self.state)
        elif message.word == "failure":
            self.failure = str(content["reason"])
        elif message.word == "demand":
            self._adapt(Demand.of(content))
        elif message.word == "done":
            self._await_workers()
        elif message.word == "described":
            self.shared.on_described(content | {"consumer": self.consumer.pid})
        elif message.word == "cleared":
            self._suspects.forget(str(content["key"]))
        elif message.word == "serves":
            self._grant(content["pid"], [str(name) for name in content["types"]])
        elif content["pid"] in self.workers.pids:
            self._act_on_worker(message.word, content["pid"])

    def _await_workers(self) -> None:
        """Kill the workers that do not end in time, as the consumer has nothing more for them."""
        if not self._is_done:
            self._is_done = True
            self._kill_at = time.monotonic() + self.shared.pool.stop_timeout

    def _act_on_worker(self, word: str, pid: int) -> None:
        if word == "hung_up":
            self._exit_timeouts.begin(pid, time.monotonic())
        elif word in ("begun", "retires", "kill", "dismiss"):
            self._mark(word, pid)
            if word in ("kill", "dismiss"):
                children.kill_group(pid)

    def _adapt(self, demand: Demand) -> None:
        """Have the number of workers that the load needs."""
        if self._scaler is None or self.is_draining:
            return
        wanted = self._scaler.wanted(self.workers.wanted, demand, self._room, time.monotonic())
        if wanted != self.workers.wanted:
            number = counted(wanted, "worker")
            self._log.info("%s instead of %d; %d workitems wait", number, self.workers.wanted, demand.waiting)
            self.resize(wanted)

    def _room(self) -> int:
        need = self._use.measure(self.workers.pids, time.monotonic())
        return self.shared.room(need) if need is not None else 0

    def _grant(self, pid: int, worker_types: Sequence[str]) -> None:
        """Grant a worker the worker types that it names, or kill it if they belong to another plugin."""
        plugin = self.blueprint.settings.worker_type
        own = self.blueprint.plugin
        has_tasks = isinstance(own, OwnPlugin) and own.has_tasks
        refusal = self.shared.grants.claim(plugin, worker_types, has_tasks=has_tasks)
        if not refusal:
            self._tell_consumer("granted", pid=pid)
        elif pid in self.pids:
            self._log.error("killing worker: %s", refusal)
            children.kill_group(pid)

    def _mark(self, word: str, pid: int) -> None:
        if (slot := self.workers.find(pid)) is not None:
            slot.has_begun |= word in ("begun", "retires")
            self._has_explained &= word != "begun"
            slot.is_retiring |= word == "retires"
            slot.is_dismissed |= word == "dismiss"

    # --- the end of a process ---

    def reap(self, end: Exit) -> bool:
        """Record the end of a process; return whether it was of this group."""
        if self.consumer.pid == end.pid:
            self._reap_consumer(end)
            return True
        if (slot := self.workers.find(end.pid)) is not None:
            self._reap_worker(slot, end)
        return slot is not None

    def _reap_consumer(self, end: Exit) -> None:
        """Kill the workers of an ended consumer: no other process could receive their outcomes."""
        self.receive()
        self._drop_control()
        self._is_done, self._kill_at = False, math.inf
        orphans = self.workers.pids
        expected = self.is_draining and end.code == ExitStatus.OK
        self._charge(expected=expected)
        delay = self.consumer.vacate(expected=expected)
        if not expected:
            report(self._log, "consumer", end, None if self.is_draining else delay)
        for pid in orphans:
            children.kill_group(pid)

    def _charge(self, *, expected: bool) -> None:
        """Charge a consumer's end to the message that it handled, if it handled one."""
        if self._handling is None:
            return
        message = self._handling.message()
        self._handling.close()
        self._handling = None
        if message is not None and not expected:
            number = self._suspects.charge(message)
            self._log.error("the consumer ended while it handled a message; crash %d of that message", number)

    def _reap_worker(self, slot: Slot, end: Exit) -> None:
        # Status 0 without a request is os._exit(0) of a plugin, which must not be replaced without a delay.
        self.receive()  # the consumer may have reported that it retires
        if slot.cgroup is not None:
            end = slot.cgroup.explain(end)
            self._end_cgroup(slot)
        retires = slot.is_retiring and end.code == ExitStatus.OK
        expected = retires or slot.is_dismissed or not self.consumer.pid
        expected |= self.is_draining and end.code == ExitStatus.OK
        delay = slot.vacate(expected=expected)
        self._exit_timeouts.end(end.pid)
        is_last = self.workers.is_last(slot) or self.is_draining
        cause = f"{end.cause}: {slot.fault}" if slot.fault else end.cause
        about = {"pid": end.pid, "peak_memory": end.peak_memory, "expected": expected}
        self._tell_consumer("died", (), cause=cause, **about)
        if not expected:
            report(self._log, f"worker {slot.name}", end, None if is_last else delay)

    def _end_cgroup(self, slot: Slot) -> None:
        """Kill what a worker has left in its control group, if it had one."""
        if slot.cgroup is not None:
            self.shared.cgroups.end(slot.cgroup)
            slot.cgroup = None

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
            be = partial(run_consumer, self.blueprint, self.shared, suspects=self._suspects, seat=self._seat)
            self.consumer.fill(children.fork(lambda: be(supervisor=theirs, handling=handling, parent=parent)))
        except OSError:
            ours.close()
            handling.close()
            raise
        finally:
            theirs.close()
        self.control, self._handling = ours, handling
        if not self.shared.orders.are_plain:
            self.obey()
        silence = LIMITED_SILENCE if self.blueprint.settings.limits else LONGEST_SILENCE
        self._watchdog = Watchdog(time.monotonic(), silence)
        if self.workers.wanted != self.blueprint.settings.workers:
            self._tell_consumer("resize", workers=self.workers.wanted)

    def _start_worker(self, slot: Slot) -> None:
        link, theirs = socket.socketpair()
        giving, using = socket.socketpair()  # see worker/channels.py
        output, their_output = os.pipe()
        parent = os.getpid()
        try:
            self._end_cgroup(slot)  # of a start that failed
            slot.cgroup = self.shared.cgroups.make(slot.name, self._boundaries)
            be = partial(run_worker, self.blueprint, self.shared, explains=not self._has_explained)
            be = partial(be, name=slot.name, ends=(theirs, using), output=their_output, cgroup=slot.cgroup)
            slot.fill(children.fork(lambda: be(parent=parent)))
            files = (link.fileno(), output, giving.fileno(), using.fileno())
            self._tell_consumer("worker", files, pid=slot.pid, name=slot.name)
            self._has_explained = True
        finally:
            for end in (link, theirs, giving, using):
                end.close()
            for descriptor in (output, their_output):
                os.close(descriptor)
