"""The consumer's side of one worker: its socket, its output and its tasks."""

import contextlib
import logging
import socket
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from taskqueue.broker.loop import EventLoop
from taskqueue.config import GroupSettings
from taskqueue.consumer.control import Reports
from taskqueue.consumer.in_flight import Assignment
from taskqueue.consumer.listeners import WorkerListener
from taskqueue.consumer.output import WorkerOutput, level_of
from taskqueue.process import startup
from taskqueue.process.logs import Log
from taskqueue.worker.channels import Credits
from taskqueue.worker.frames import (
    FrameError,
    FrameReader,
    Kind,
    Outcome,
    ProgressFrame,
    Service,
    TaskFrame,
    services_of,
)

_CHUNK: Final = 65_536  # bytes read from a worker at a time
_MOST_LEFT: Final = 16  # chunks; a socket buffers less, unless net.core.wmem_max is larger than by default
_PROGRESS_DELAY: Final = 0.05  # seconds; more frequent progress of a worker is dropped


class WorkerLink:
    """The connection to one worker; it lasts as long as the worker does."""

    def __init__(
        self,
        loop: EventLoop,
        pid: int,
        name: str,
        files: tuple[int, ...],
        *,
        reports: Reports,
        log: Log,
        group: GroupSettings,
        listener: WorkerListener,
    ) -> None:
        """Take over the worker's socket, the reading end of its output, and both ends of its credits.

        reports -- sends messages to the supervisor, which can kill the worker
        log -- takes the lines of the worker's output
        """
        self._pid = pid
        self.name = name
        self.is_ready = False
        self.tasks: deque[Assignment] = deque()  # in the order the worker performs them
        self.begun = 0.0  # when the first of them was begun (monotonic)
        self.kill_reason = ""  # why the worker must be killed, if it must
        self._is_filling = True
        self.is_dismissed = False  # whether it is to be killed without a charge to its workitem
        self._timer: object | None = None
        self._progress_passed = 0.0  # monotonic; when its progress was last passed to the listener
        self._is_retiring = self._is_leaving = False  # whether it ends; whether it is to end after its task
        self._has_begun = False  # whether it has sent its READY frame
        self._has_answered = False  # whether it has performed a task
        self._socket = socket.socket(fileno=files[0])
        self._socket.setblocking(False)
        self._output = WorkerOutput(loop, files[1], group.output_rate, self._log_line)
        self._reader = FrameReader()
        self._unsent = bytearray()
        self._credits = Credits(files[2], files[3])
        self._unused: set[int] = set()  # the tasks that the dead worker had not begun
        self._batch: list[tuple[int, bytes]] = []  # tasks that are sent at the end of the loop's round
        self._is_watched = True
        self._loop, self._reports, self._listener = loop, reports, listener
        self._named: tuple[Service, ...] | None = None  # services named, until they are granted
        self._is_dead = False
        self._log = log.bind(worker=name)
        self._shows = group.show_output
        loop.watch(self._socket, self._readable)

    def give(self, assignment: Assignment) -> bool:
        """Send a workitem to the worker, which performs them in order; return False if the worker is dead."""
        number = assignment.number
        worker_type, body = assignment.group.worker_type, assignment.delivery.body
        task = TaskFrame(number, assignment.attempt, worker_type, assignment.raw_properties, body).encode()
        if self.tasks:  # the worker does not wait for it
            if not self._batch:
                self._loop.at_round_end(self._send_batch)
            self._batch.append((number, task))
            self.tasks.append(assignment)
        elif self._send(task):
            self._credits.give((number,))
            self.tasks.append(assignment)
            self._begin()
        else:
            self.is_ready = False
            return False
        return True

    def has_room(self, prefetch: int) -> bool:
        """Return whether it can be given another workitem; once full, when half of `prefetch` is done."""
        number = len(self.tasks)
        self._is_filling = number < prefetch and (self._is_filling or number <= prefetch // 2)
        return self._is_filling and self.is_ready

    def take_back(self) -> list[Assignment]:
        """Take back the assignments that the worker has not begun, for other workers."""
        back = self._take_credits()
        first, tasks = next(iter(self.tasks), None), self.tasks
        self.tasks = deque(each for each in tasks if each.number not in back)
        if first is not None and first.number in back:
            self._begin()
        return [each for each in tasks if each.number in back]

    def has_taken(self, assignment: Assignment) -> bool:
        """Return whether the worker has begun an assignment, or will not begin it any more."""
        return not self._credits.is_unused(assignment.number)

    def _take_credits(self) -> set[int]:
        """Take back credits; return the numbers of the tasks that the worker will not begin."""
        back = {number for number, _ in self._batch}
        self._batch.clear()
        try:
            return back | self._credits.take_back()
        except ValueError as error:
            self._request_kill(str(error))
            return back

    def _begin(self) -> None:
        """Record that the worker begins the first of its tasks, and start the timer for its timeout."""
        self.begun = time.monotonic()
        if self._timer is not None:
            self._stop_timer()
        if not self.tasks:
            return
        first = self.tasks[0]
        group = first.group
        if group.timeout:
            limit = group.timeout + group.timeout_grace
            self._timer = self._loop.call_later(limit, lambda: self._overdue(limit))
        self._listener.worker_began(self, first)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._loop.cancel(self._timer)
            self._timer = None

    def _overdue(self, limit: float) -> None:
        self._timer = None
        self._request_kill(f"ran longer than timeout + timeout_grace = {limit:g} s")

    def dismiss(self) -> None:
        """Have the worker killed, without a charge to any workitem."""
        if not self.is_dismissed:
            self.is_ready, self.is_dismissed = False, True
            self._reports.send("dismiss", pid=self._pid)

    def hang_up(self) -> None:
        """Close the sending side: the worker cleans up and ends."""
        self.is_ready = False
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)
        self._credits.end()

    def close(self) -> None:
        """Read the dead worker's remaining frames and output, and close all files.

        A process that it started, and that left its process group, may still write to its end of the socket;
        therefore the number of reads is limited.
        """
        self._is_dead = True
        self._socket.setblocking(False)
        left = _MOST_LEFT
        while left and self._is_watched and self._receive():
            left -= 1
        self._unwatch()
        self._output.close()
        self._socket.close()
        self._unused = self._take_credits()
        self._credits.close()
        self._stop_timer()

    @property
    def since(self) -> float:
        """The time at which the first of its tasks was begun, in seconds since 1970."""
        return time.time() - (time.monotonic() - self.begun)

    def retire(self) -> list[Assignment]:
        """Have the worker end after its workitem; return the assignments that it has not begun."""
        self.is_ready, self._is_leaving = False, True
        back = self.take_back()
        self._leave_if_idle()
        return back

    @property
    def is_ending(self) -> bool:
        """Whether the worker ends, or is to be killed."""
        return self._is_retiring or self.is_dismissed or (self._has_begun and not self.is_ready)

    @property
    def had_begun(self) -> bool:
        """Whether the dead worker had begun the first of its tasks, as far as the credits show."""
        return bool(self.tasks) and not self._is_retiring and self.tasks[0].number not in self._unused

    # --- the socket ---

    def _send_batch(self) -> None:
        if not self._batch:
            return  # taken back meanwhile
        if self._is_watched and self._send(b"".join(frame for _, frame in self._batch)):
            self._credits.give(number for number, _ in self._batch)
            self._batch.clear()
        else:
            self.is_ready = False  # it died; the supervisor will report the cause

    def _send(self, data: bytes) -> bool:
        if not self._unsent:
            sent = self._send_now(data)
            if sent is None:
                return False
            data = data[sent:]
        if data:
            self._unsent += data
            self._watch_again(self._writable)
        return True

    def _send_now(self, data: bytes | bytearray) -> int | None:
        """Send as much as the socket takes; return the number of bytes, None if the worker is dead."""
        try:
            return self._socket.send(data)
        except BlockingIOError:
            return 0
        except OSError:
            return None

    def _writable(self) -> None:
        del self._unsent[: self._send_now(self._unsent)]  # all of it if the worker is dead
        if not self._unsent:
            self._watch_again(None)

    def _watch_again(self, on_writable: Callable[[], Any] | None) -> None:
        if self._is_watched:
            self._loop.unwatch(self._socket)
            self._loop.watch(self._socket, self._readable, on_writable)

    def _readable(self) -> None:
        self._receive()

    def _receive(self) -> bool:
        """Process the frames of one read; return whether there may be more."""
        try:
            data = self._socket.recv(_CHUNK)
        except BlockingIOError:
            return False
        except OSError:  # ECONNRESET too, if the peer closed with unread data
            data = b""
        if not data:
            self._unwatch()
            self._report("hung_up")  # a worker closes its socket just before it ends
            return False
        try:
            self._output.drain()  # before the next task becomes the first
            for kind, payload in self._reader.feed(data):
                self._take(kind, payload)
        except FrameError as error:
            self._unwatch()
            self._request_kill(str(error))
            return False
        return True

    def _request_kill(self, reason: str) -> None:
        """Have the worker killed; its crash is charged to its current workitem, with the reason."""
        self.is_ready = False
        self.kill_reason = self.kill_reason or reason
        if not self._is_dead:
            self._log.error("killing worker: %s", reason)
            self._report("kill")

    def _report(self, word: str) -> None:
        if not self._is_dead:
            self._reports.send(word, pid=self._pid)

    def _take(self, kind: Kind, payload: bytes) -> None:
        if kind is Kind.OUTCOME:
            outcome = Outcome.decode(payload)
            if not self.tasks or self.tasks[0].number != outcome.number:
                raise FrameError(f"outcome of task {outcome.number}, which is not its current task")
            assignment = self.tasks.popleft()
            self._has_answered = True
            self._begin()
            self._listener.worker_performed(self, assignment, outcome)
            self._leave_if_idle()
        elif kind is Kind.READY and not self._has_begun:
            self._named = services_of(payload)
            self.is_ready = self._has_begun = True
            self._request_grant(self._named)
        elif kind is Kind.PROGRESS:
            self._take_progress(ProgressFrame.decode(payload))
        elif kind is Kind.RETIRING and self._has_answered and not self._is_retiring:
            # A worker that retired before its first outcome would be replaced at once, for ever.
            self._retire()
        else:
            raise FrameError(f"unexpected frame {kind.name}")

    def _retire(self) -> None:
        self._is_retiring = True
        self._stop_timer()
        self._reports.send("retires", pid=self._pid)
        self.hang_up()  # it waits for that: an end before the report would count as a crash

    def _leave_if_idle(self) -> None:
        if self._is_leaving and not self.tasks and not self._is_retiring:
            self._retire()

    def _request_grant(self, services: tuple[Service, ...]) -> None:
        """Ask the supervisor to grant the worker types that the worker names; its group's needs no grant."""
        if services:
            names = [service.worker_type for service in services]
            self._reports.send("serves", pid=self._pid, types=names)
        else:
            self.granted()

    def granted(self) -> None:
        """Start to use the worker: the services that it has named are granted."""
        services, self._named = self._named, None
        if services is not None and not self._is_dead:
            self._reports.send("begun", pid=self._pid)
            self._listener.worker_ready(services)

    def _take_progress(self, progress: ProgressFrame) -> None:
        now = time.monotonic()
        is_its_own = bool(self.tasks) and self.tasks[0].number == progress.number
        if is_its_own and now - self._progress_passed >= _PROGRESS_DELAY:
            self._progress_passed = now
            self._listener.worker_progressed(self.tasks[0], progress)

    def _unwatch(self) -> None:
        if self._is_watched:
            self._is_watched = self.is_ready = False
            self._loop.unwatch(self._socket)

    # --- the output ---

    def _log_line(self, line: str, number: int | None) -> None:
        level, text = level_of(line)
        if self._shows and text is line:
            startup.show(text)
            return
        if number is None and self.tasks:
            number = self.tasks[0].number
        task = next((each for each in self.tasks if each.number == number), None)
        self._log.log(level, "| %s", text, workitem=task.id if task else None)
        if task is not None:
            self._listener.worker_printed(self, task, logging.getLevelName(level), text)
