"""The consumer's side of one worker: its socket, its output, and what it was given to do."""

import contextlib
import logging
import socket
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from taskqueue.broker.loop import EventLoop
from taskqueue.config import GroupSettings
from taskqueue.consumer.assignment import Assignment
from taskqueue.consumer.output import TELL_DELAY, OutputPump
from taskqueue.process import startup
from taskqueue.process.logs import Log
from taskqueue.worker.credits import Credits
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
_MOST_LEFT: Final = 16  # chunks; a socket buffers less, unless the machine's net.core.wmem_max says more
_PROGRESS_DELAY: Final = 0.05  # seconds; a worker that tells of its progress more often is not heeded


class WorkerLink:
    """Speaks with one worker; lives as long as the worker does."""

    def __init__(
        self,
        loop: EventLoop,
        name: str,
        files: tuple[int, ...],
        log: Log,
        group: GroupSettings,
        *,
        on_ready: Callable[[tuple[Service, ...]], None],
        on_begin: Callable[["WorkerLink", Assignment], None],
        on_progress: Callable[[Assignment, ProgressFrame], None],
        on_outcome: Callable[["WorkerLink", Assignment, Outcome], None],
        on_retiring: Callable[[], None],
        on_hang_up: Callable[[], None],
        on_fault: Callable[["WorkerLink", str], None],
    ) -> None:
        """Take over the worker's socket, the reading end of its output, and both ends of its credit.

        log -- takes the lines of that output
        on_ready -- the worker can take work, of the worker types that it names
        on_begin -- the worker begins with a workitem
        on_retiring -- the worker has done enough and is about to end
        on_hang_up -- the worker closed its socket; it should be about to end
        on_fault -- the worker said what no worker says; it must be killed
        """
        self.name = name
        self.is_ready = False
        self.tasks: deque[Assignment] = deque()  # in the order the worker performs them
        self.begun = 0.0  # when the first of them was begun, on the monotonic clock
        self.sentence = ""  # why the worker must be killed, if it must
        self._is_filling = True
        self.is_dismissed = False  # whether it is to be killed for no fault of what it performs
        self._timer: object | None = None
        self._heeded = 0.0  # monotonic; when it last told of its progress
        self._is_retiring = False
        self._has_begun = False  # whether it has said once that it is ready
        self._has_answered = False  # whether it has performed a task
        self._loop = loop
        self._socket = socket.socket(fileno=files[0])
        self._socket.setblocking(False)
        self._output: OutputPump | None = OutputPump(files[1], group.output_rate, self._log_line)
        self._reader = FrameReader()
        self._unsent = bytearray()
        self._credits = Credits(files[2], files[3])
        self._unused: set[int] = set()  # the tasks that the worker, which is dead, had not begun
        self._together: list[tuple[int, bytes]] = []  # tasks that are sent at the end of the loop's round
        self._is_watched = True
        self._is_telling = False
        self._on_ready, self._on_outcome, self._on_retiring = on_ready, on_outcome, on_retiring
        self._on_begin, self._on_progress = on_begin, on_progress
        self._on_hang_up, self._on_fault = on_hang_up, on_fault
        self._log = log.bind(worker=name)
        self._shows = group.show_output
        loop.watch(self._socket, self._readable)
        loop.watch(self._output, self._output_readable)

    def give(self, assignment: Assignment) -> bool:
        """Send a workitem to the worker, which performs one after the other; False if it died before."""
        number = assignment.number
        worker_type, body = assignment.group.worker_type, assignment.delivery.body
        task = TaskFrame(number, assignment.attempt, worker_type, assignment.raw_properties, body).encode()
        if self.tasks:  # the worker does not wait for it
            if not self._together:
                self._loop.at_round_end(self._send_together)
            self._together.append((number, task))
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
        """Tell whether it can be given another workitem: of many, when it has done half of them."""
        number = len(self.tasks)
        self._is_filling = number < prefetch and (self._is_filling or number <= prefetch // 2)
        return self._is_filling and self.is_ready

    def take_back(self) -> list[Assignment]:
        """Return what the worker has not begun: somebody else can have it."""
        back = self._take_credits()
        first, tasks = next(iter(self.tasks), None), self.tasks
        self.tasks = deque(each for each in tasks if each.number not in back)
        if first is not None and first.number in back:
            self._begin()
        return [each for each in tasks if each.number in back]

    def _take_credits(self) -> set[int]:
        """Return the numbers of the tasks that the worker has not begun and will not begin."""
        back = {number for number, _ in self._together}
        self._together.clear()
        try:
            return back | self._credits.take_back()
        except ValueError as error:
            self._condemn(str(error))
            return back

    def _begin(self) -> None:
        """Note that the worker begins with the first of its tasks, and how long that may take."""
        self.begun = time.monotonic()
        if self._timer is not None:
            self._stop_timer()
        if not self.tasks:
            return
        first = self.tasks[0]
        group = first.group
        if group.timeout:
            patience = group.timeout + group.timeout_grace
            self._timer = self._loop.call_later(patience, lambda: self._overdue(patience))
        self._on_begin(self, first)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._loop.cancel(self._timer)
            self._timer = None

    def _overdue(self, patience: float) -> None:
        self._timer = None
        self._condemn(f"it ran longer than its timeout and grace, {patience:g} s together")

    def dismiss(self) -> None:
        """Give the worker nothing more: it is about to be killed, and nothing is charged with that."""
        self.is_ready, self.is_dismissed = False, True

    def hang_up(self) -> None:
        """Tell the worker that nothing more comes: it cleans up and ends."""
        self.is_ready = False
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)
        self._credits.end()

    def close(self) -> None:
        """Read what the worker left behind, and let go of it. It is dead.

        A process that it started, and that left its group, may still write to its end of the socket.
        """
        self._socket.setblocking(False)
        left = _MOST_LEFT
        while left and self._is_watched and self._receive():
            left -= 1
        self._unwatch()
        self._close_output()
        self._socket.close()
        self._unused = self._take_credits()
        self._credits.close()
        self._stop_timer()

    @property
    def since(self) -> float:
        """When the first of its tasks was begun, in seconds since 1970."""
        return time.time() - (time.monotonic() - self.begun)

    @property
    def had_begun(self) -> bool:
        """Whether the worker, which is dead, had begun with the first of its tasks, as far as can be told."""
        return bool(self.tasks) and not self._is_retiring and self.tasks[0].number not in self._unused

    # --- the socket ---

    def _send_together(self) -> None:
        if not self._together:
            return  # taken back meanwhile
        if self._is_watched and self._send(b"".join(frame for _, frame in self._together)):
            self._credits.give(number for number, _ in self._together)
            self._together.clear()
        else:
            self.is_ready = False  # it died; the supervisor will say how

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
        """Send what there is room for; None if the worker died: the supervisor will say how."""
        try:
            return self._socket.send(data)
        except BlockingIOError:
            return 0
        except OSError:
            return None

    def _writable(self) -> None:
        del self._unsent[: self._send_now(self._unsent)]  # all of it, if nobody reads any more
        if not self._unsent:
            self._watch_again(None)

    def _watch_again(self, on_writable: Callable[[], Any] | None) -> None:
        if self._is_watched:
            self._loop.unwatch(self._socket)
            self._loop.watch(self._socket, self._readable, on_writable)

    def _readable(self) -> None:
        self._receive()

    def _receive(self) -> bool:
        """Take in what the worker says; tell whether there may be more."""
        try:
            data = self._socket.recv(_CHUNK)
        except BlockingIOError:
            return False
        except OSError:  # among them the kernel's word for a peer that left something unread
            data = b""
        if not data:
            self._unwatch()
            self._on_hang_up()
            return False
        try:
            self._drain_output()
            for kind, payload in self._reader.feed(data):
                self._take(kind, payload)
        except FrameError as error:
            self._unwatch()
            self._condemn(str(error))
            return False
        return True

    def _condemn(self, reason: str) -> None:
        """Have the worker killed; its crash is charged to the workitem that it performs, with the reason."""
        self.is_ready = False
        self.sentence = self.sentence or reason
        self._on_fault(self, reason)

    def _take(self, kind: Kind, payload: bytes) -> None:
        if kind is Kind.OUTCOME:
            outcome = Outcome.decode(payload)
            if not self.tasks or self.tasks[0].number != outcome.number:
                raise FrameError(f"an outcome of task {outcome.number}, which it was not given")
            assignment = self.tasks.popleft()
            self._has_answered = True
            self._begin()
            self._on_outcome(self, assignment, outcome)
        elif kind is Kind.READY and not self._has_begun:
            services = services_of(payload)
            self.is_ready = self._has_begun = True
            self._on_ready(services)
        elif kind is Kind.PROGRESS:
            self._take_progress(ProgressFrame.decode(payload))
        elif kind is Kind.RETIRING and self._has_answered and not self._is_retiring:
            # Before it has answered, it would be replaced at once, for ever.
            self._is_retiring = True
            self._stop_timer()
            self._on_retiring()
            self.hang_up()  # it waits for that: who ends before the supervisor knows why has died
        else:
            raise FrameError(f"a frame {kind.name} out of place")

    def _take_progress(self, progress: ProgressFrame) -> None:
        now = time.monotonic()
        is_its_own = bool(self.tasks) and self.tasks[0].number == progress.number
        if is_its_own and now - self._heeded >= _PROGRESS_DELAY:
            self._heeded = now
            self._on_progress(self.tasks[0], progress)

    def _unwatch(self) -> None:
        if self._is_watched:
            self._is_watched = self.is_ready = False
            self._loop.unwatch(self._socket)

    # --- the output ---

    def _drain_output(self) -> None:
        """Log what it wrote about a workitem with its id, before the next one is the first of its tasks."""
        if self._output is not None:
            self._output.drain()
            self._tell_dropped_later(self._output)

    def _output_readable(self) -> None:
        if self._output is None:
            return
        if not self._output.pump():
            self._close_output()
        else:
            self._tell_dropped_later(self._output)

    def _tell_dropped_later(self, output: OutputPump) -> None:
        """See to it that dropped lines are told of even if no line follows."""
        if output.dropped and not self._is_telling:
            self._is_telling = True
            self._loop.call_later(TELL_DELAY, self._tell_dropped)

    def _tell_dropped(self) -> None:
        self._is_telling = False
        if self._output is not None:
            self._output.tell_dropped()

    def _close_output(self) -> None:
        if self._output is not None:
            self._loop.unwatch(self._output)
            self._output.close()
            self._output = None

    def _log_line(self, line: str, number: int | None) -> None:
        level, text = _level(line)
        if self._shows and text is line:
            startup.show(text)
            return
        if number is None and self.tasks:
            number = self.tasks[0].number
        workitem = next((each.id for each in self.tasks if each.number == number), None)
        self._log.log(level, "| %s", text, workitem=workitem)


def _level(line: str) -> tuple[int, str]:
    """Return the level of a line that a worker's logging has written, and its text; INFO for all others."""
    name, mark, text = line.partition(": ")
    level = logging.getLevelNamesMapping().get(name) if mark else None
    return (level, text) if level else (logging.INFO, line)
