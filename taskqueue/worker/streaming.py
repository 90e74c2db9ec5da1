"""Workers in mode stream: a process of the command that performs one workitem after the other.

docs/commands.md describes the protocol: newline-delimited JSON on the descriptors 3 and 4 of the program.
"""

import base64
import binascii
import logging
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from taskqueue.config.command_checks import arguments
from taskqueue.errors import CommandFailed, PluginError, Reject, Retry, TaskTimeout, WorkitemUnreadable
from taskqueue.messages import jsonrpc
from taskqueue.messages.content import BINARY
from taskqueue.messages.lanes import tenant_of
from taskqueue.messages.results import Content
from taskqueue.process import programs
from taskqueue.process.usage import resident_memory
from taskqueue.texts import shorten
from taskqueue.worker.commands import CommandOptions, CommandWorker, described
from taskqueue.worker.lines import BrokenLine, Ended, LineProgram

_BASE64: Final = "base64"
_CONTENT_TYPE: Final = re.compile(r"[!-~][ -~]{0,254}")
_LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}
_END_TIMEOUT: Final = 1.0  # seconds that a program has after the end of its input, and again after SIGTERM
_MIB: Final = 1024 * 1024


class StreamWorker(CommandWorker):
    """Passes workitems to a running program and waits for its answers."""

    def __init__(self, options: CommandOptions) -> None:
        super().__init__(options)
        self._running: LineProgram | None = None

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

    def handle_task(self, body: Any) -> Any:
        """Pass the workitem to the program; return its result."""
        line = self._request(body)
        try:
            answer = self._perform(line)
        except (TaskTimeout, BrokenLine) as error:
            self._end()
            if isinstance(error, BrokenLine):
                raise CommandFailed(f"{self.program} {error}") from None
            raise
        self._check_memory()
        return _outcome(answer)

    def _request(self, body: Any) -> bytes:
        item = self.workitem
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

    def _perform(self, line: bytes) -> Mapping[str, Any]:
        """Return the program's last answer; it is started anew if it ended before it read the line."""
        running, is_new = self._ready()
        while True:
            if self.options.cpu_limit:
                programs.limit_cpu(running.pid, running.used_cpu() + self.options.cpu_limit + 1)
            try:
                return self._take_answers(running.exchange(line))
            except Ended as end:
                if is_new or not end.is_unread:
                    self.log.error("%s ended with a workitem in hand: %s", self.program, described(end.code))
                    programs.end_all()  # what it has left
                    programs.die_as(end.code)
                self._log_end(end.code)
                running, is_new = self._replace(), True

    def _take_answers(self, lines: Iterator[bytes]) -> Mapping[str, Any]:
        """Pass on progress and logs; return the answer with a status. Raises BrokenLine."""
        for line in lines:
            answer = _decoded(line, self.workitem.id)
            if "log" in answer:
                level = _LEVELS.get(str(answer.get("level")), logging.INFO)
                self.log.log(level, "%s", shorten(str(answer["log"])))
            if "progress" in answer:
                self._pass_progress(answer)
            if "status" in answer:
                return answer
        raise BrokenLine("closed descriptor 4")

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
        self.is_spent |= not programs.terminate(self.kill_delay())
        if running is not None:
            running.close()

    def _check_memory(self) -> None:
        running, most = self._running, self.options.max_memory
        if most and running is not None and running.status() is None:
            self.is_spent |= resident_memory(running.pid) > most * _MIB


def _decoded(line: bytes, expected: str) -> dict[str, Any]:
    try:
        answer = jsonrpc.decode(line)
    except (ValueError, RecursionError):
        raise BrokenLine(f"wrote a line that is not JSON: {_shown(line)}") from None
    if not isinstance(answer, dict):
        raise BrokenLine(f"wrote a line that is no JSON object: {_shown(line)}")
    if answer.get("id") != expected:
        raise BrokenLine(f"answered for id {shorten(repr(answer.get('id')), 100)}, expected {expected!r}")
    if answer.keys().isdisjoint(("status", "progress", "log")):
        raise BrokenLine(f"wrote a line without status, progress or log: {_shown(line)}")
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
            raise Retry(text, delay=answer.get("delay"))
        case "rejected":
            raise Reject(text)
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
