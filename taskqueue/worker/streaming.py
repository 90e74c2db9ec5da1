"""Workers in mode stream: a process of the command that performs one workitem after the other.

docs/commands.md describes the protocol: newline-delimited JSON on the descriptors 3 and 4 of the program.
"""

import base64
import binascii
import logging
import re
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from taskqueue.config.command_checks import arguments
from taskqueue.errors import CommandFailed, PluginError, Reject, Retry, TaskTimeout, WorkitemUnreadable
from taskqueue.messages import jsonrpc
from taskqueue.messages.content import BINARY
from taskqueue.messages.lanes import tenant_of
from taskqueue.messages.results import Content
from taskqueue.messages.workitem import Workitem, decode_body
from taskqueue.process import programs
from taskqueue.process.usage import resident_memory
from taskqueue.texts import shorten
from taskqueue.worker.commands import CommandOptions, CommandWorker, described, untraced
from taskqueue.worker.frames import TaskFrame
from taskqueue.worker.lines import BrokenLine, Ended, LineProgram
from taskqueue.worker.passing import refers
from taskqueue.worker.tasks import ForesightedWorker, Tasks

_BASE64: Final = "base64"
_CONTENT_TYPE: Final = re.compile(r"[!-~][ -~]{0,254}")
_LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}
_END_TIMEOUT: Final = 1.0  # seconds that a program has after the end of its input, and again after SIGTERM
_MOST_AHEAD: Final = 15  # workitems
_QUICK: Final = 0.005  # seconds; after a workitem that took longer, the program gets none ahead
_SHORT: Final = 4096  # bytes of a body; a longer one is not written ahead of its turn
_ALONE: Final = "its first workitem without an answer runs again, alone"
_MIB: Final = 1024 * 1024


@dataclass(slots=True, eq=False)
class _Written:
    """A workitem whose line is written to the program, and which has no answer with a status yet."""

    number: int  # of its task
    id: str
    is_sure: bool  # whether the program can have ended only after it began this one
    answers: deque[dict[str, Any]] = field(default_factory=deque)  # that came before its turn


class StreamWorker(CommandWorker, ForesightedWorker):
    """Passes workitems to a running program and waits for its answers.

    While the program answers quickly, it gets lines ahead of their turn, so that worker and program wait less
    for each other. If it then ends or breaks the protocol, and it is not sure that it had begun the first
    workitem without an answer, nothing is charged: that one is passed on once more, alone.
    """

    def __init__(self, options: CommandOptions) -> None:
        super().__init__(options)
        self._running: LineProgram | None = None
        self._number = 0  # of the current task
        self._written: deque[_Written] = deque()  # the current workitem and those ahead
        self._most_ahead = 0

    def setup(self) -> None:
        """Start the program. Raises PluginError if that fails."""
        super().setup()
        try:
            self._start()
        except OSError as error:
            raise PluginError(f"{self.program} cannot be started: {error.strerror}") from None

    def teardown(self) -> None:
        """End the program's input, wait for its end, and kill what is left."""
        if self._running is not None:
            self._running.finish(_END_TIMEOUT)
        programs.terminate(_END_TIMEOUT)

    @property
    def is_ahead(self) -> bool:
        """Whether the program has workitems whose turn has not come."""
        return bool(self._written)

    def look_ahead(self, task: TaskFrame, tasks: Tasks, most: int) -> None:
        """Write the lines of a task and of the next ones, if they are short and the program is quick."""
        self._number, written = task.number, self._written
        if written and written[0].number != task.number:  # it ran out of time before `handle_task`
            self._end()
        most = min(most, self._most_ahead)
        if not most or len(written) > most // 2 + 1:  # it is cheaper to write some together
            return
        running = self._running
        if running is None or not (written or running.is_waiting()):
            return
        lines = []
        for each in [task, *tasks.begin_ahead(most)][len(written) :]:
            item = Workitem(each.worker_type, each.attempt, each.properties, each.body)
            line = self._short_line(item)
            if line is None:
                break
            written.append(_Written(each.number, item.id, is_sure=not written))
            lines.append(line)
        if lines:
            running.write(b"".join(lines))

    def _short_line(self, item: Workitem) -> bytes | None:
        """Return the line of a workitem ahead; None if it must wait for its turn, and for its limits."""
        if len(item.body) > _SHORT or item.has_content_encoding or refers(item):
            return None
        id_ = item.id
        if any(each.id == id_ for each in self._written):
            return None
        try:
            return _line(item, decode_body(item))
        except WorkitemUnreadable:  # of which its own run tells
            return None

    def handle_task(self, body: Any) -> Any:
        """Pass the workitem to the program, unless that is done; return its result."""
        begun = time.monotonic()
        try:
            answer = self._perform(body)
        except (TaskTimeout, BrokenLine) as error:
            self._end()
            if isinstance(error, BrokenLine):
                raise CommandFailed(f"{self.program} {error}") from None
            raise
        is_quick = time.monotonic() - begun < _QUICK
        self._most_ahead = min(2 * self._most_ahead + 1, _MOST_AHEAD) if is_quick else 0
        self._check_memory()
        return _outcome(answer)

    def _perform(self, body: Any) -> Mapping[str, Any]:
        """Return the program's last answer; it is started anew if it ended before it began."""
        running, is_new = self._running, False
        if running is None or not self._written:
            line = _line(self.workitem, body)
            running, is_new = self._ready()
            self._pass_on(running, line)
        while True:
            if self.options.cpu_limit:
                programs.limit_cpu(running.pid, running.used_cpu() + self.options.cpu_limit + 1)
            try:
                return self._take_answers(running)
            except (Ended, BrokenLine) as fault:
                self._charge(fault, is_new=is_new)
                running, is_new = self._replace(), True
                self._pass_on(running, _line(self.workitem, body))

    def _pass_on(self, running: LineProgram, line: bytes) -> None:
        self._written.append(_Written(self._number, self.workitem.id, is_sure=True))
        running.write(line)

    def _charge(self, fault: Ended | BrokenLine, *, is_new: bool) -> None:
        """Charge the current workitem with the program's end or fault, if it is sure that this is its own."""
        if not self._written[0].is_sure:
            what = f"ended: {described(fault.code)}" if isinstance(fault, Ended) else str(fault)
            self.log.warning("%s %s; %s", self.program, what, _ALONE)
        elif isinstance(fault, BrokenLine):
            raise fault
        elif is_new or not fault.is_unread:
            self.log.error("%s ended with a workitem in hand: %s", self.program, described(fault.code))
            programs.end_all()  # what it has left
            programs.die_as(fault.code)
        else:
            self._log_end(fault.code)

    def _take_answers(self, running: LineProgram) -> Mapping[str, Any]:
        """Pass on progress and logs of the current workitem; return the answer with a status."""
        current = self._written[0]
        while True:
            answer = current.answers.popleft() if current.answers else self._next_answer(running)
            if "log" in answer:
                level = _LEVELS.get(str(answer.get("level")), logging.INFO)
                self.log.log(level, "%s", shorten(str(answer["log"])))
            if "progress" in answer:
                self._pass_progress(answer)
            if "status" in answer:
                self._written.popleft()
                return answer

    def _next_answer(self, running: LineProgram) -> dict[str, Any]:
        """Return the next answer for the current workitem; keep those for workitems ahead."""
        current = self._written[0]
        while True:
            line = running.next_line()
            answer = _decoded(line)
            id_ = answer.get("id")
            found = next((each for each in self._written if each.id == id_), None)
            if found is None:
                raise BrokenLine(f"answered for id {shorten(repr(id_), 100)}, expected {current.id!r}")
            if answer.keys().isdisjoint(("status", "progress", "log")):
                raise BrokenLine(f"wrote a line without status, progress or log: {_shown(line)}")
            found.is_sure = True
            if found is current:
                return answer
            found.answers.append(answer)

    def _pass_progress(self, answer: Mapping[str, Any]) -> None:
        fraction = answer["progress"]
        if isinstance(fraction, bool) or not isinstance(fraction, (int, float)):
            raise BrokenLine(f"answered with progress {shorten(repr(fraction), 100)}, expected a number")
        self.progress(fraction, str(answer.get("text", "")))

    # --- the process ---

    def _ready(self) -> tuple[LineProgram, bool]:
        """Return the running program, which is started if none waits for a workitem, and whether it was."""
        running = self._running
        if running is not None:
            if running.is_waiting():
                return running, False
            status = running.idle_end()
            if status is None:
                self.log.error(
                    "%s wrote a line without a workitem, or closed descriptor 4; it is replaced", self.program
                )
            else:
                self._log_end(status)
        return self._replace(), True

    def _log_end(self, status: int) -> None:
        self.log.warning("%s ended between two workitems: %s", self.program, described(status))

    def _replace(self) -> LineProgram:
        self._end()
        try:
            return self._start()
        except OSError as error:
            self.is_spent = True  # the next worker tells why, and takes no workitem meanwhile
            raise Retry(f"{self.program} cannot be started: {error.strerror}") from None

    def _start(self) -> LineProgram:
        command = [each.fill({}) for each in arguments(self.options.command)]
        self._running = LineProgram(command, self.environment(), self.options.max_result)
        return self._running

    def _end(self) -> None:
        """End the program and all that it has started."""
        running, self._running = self._running, None
        self._written.clear()
        self._most_ahead = 0
        self.is_spent |= not programs.terminate(self.kill_delay())
        if running is not None:
            running.close()

    def _check_memory(self) -> None:
        running, most = self._running, self.options.max_memory
        if most and running is not None and running.status() is None:
            self.is_spent |= resident_memory(running.pid) > most * _MIB


def _line(item: Workitem, body: Any) -> bytes:
    """Return the line of a workitem. Raises WorkitemUnreadable for a body that is no JSON."""
    asked = {
        "id": item.id,
        "attempt": item.attempt,
        "type": item.worker_type,
        "tenant": tenant_of(item.properties),
        "content_type": item.content_type,
        "body": body,
    }
    if isinstance(body, bytes):
        asked |= {"body": base64.b64encode(body).decode(), "encoding": _BASE64}
    try:
        return jsonrpc.encode(asked) + b"\n"
    except (ValueError, RecursionError) as error:  # NaN, which Python reads
        raise WorkitemUnreadable(f"the body cannot be passed on as JSON: {error}") from None


def _decoded(line: bytes) -> dict[str, Any]:
    try:
        answer = jsonrpc.decode(line)
    except (ValueError, RecursionError):
        raise BrokenLine(f"wrote a line that is not JSON: {_shown(line)}") from None
    if not isinstance(answer, dict):
        raise BrokenLine(f"wrote a line that is no JSON object: {_shown(line)}")
    return answer


def _shown(line: bytes) -> str:
    return shorten(repr(line.decode("utf-8", "replace")), 200)


def _outcome(answer: Mapping[str, Any]) -> Any:
    """Return the result of an answer, or raise what its status asks for."""
    text = str(answer.get("error", ""))
    match answer["status"]:
        case "succeeded":
            return _result(answer)
        case "retry":
            raise untraced(Retry(text, delay=answer.get("delay")))
        case "rejected":
            raise untraced(Reject(text))
        case "failed":
            raise CommandFailed(text or "it gave no reason")
        case other:
            expected = "expected succeeded, failed, rejected or retry"
            raise CommandFailed(f"answered with status {shorten(repr(other), 100)}, {expected}")


def _result(answer: Mapping[str, Any]) -> Any:
    value: Any = answer.get("result")
    if answer.get("encoding") != _BASE64:
        return value
    kind = answer.get("content_type", BINARY)
    try:
        data = base64.b64decode(value, validate=True)
    except (TypeError, ValueError, binascii.Error):
        raise CommandFailed("its result is not base64, as its encoding says") from None
    if not isinstance(kind, str) or not _CONTENT_TYPE.fullmatch(kind):
        raise CommandFailed(f"its content_type {shorten(repr(kind), 100)} is no media type")
    return Content(kind, data)
