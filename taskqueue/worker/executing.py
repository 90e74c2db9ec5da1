"""Workers in mode exec: a process of the command for each workitem."""

import codecs
import errno
import fcntl
import os
import select
import sys
from collections.abc import Mapping
from typing import Any, Final

from taskqueue.config.command_checks import BadField, arguments
from taskqueue.errors import BadArguments, CommandFailed, PluginError, Reject, Retry, TaskTimeout
from taskqueue.messages import jsonrpc
from taskqueue.messages.content import JSON, TEXT, media_type
from taskqueue.messages.lanes import tenant_of
from taskqueue.messages.results import Content
from taskqueue.messages.workitem import plain_body
from taskqueue.process import programs
from taskqueue.worker.commands import CommandOptions, CommandWorker, described, untraced

_CHUNK: Final = 65_536  # bytes read at a time
_LONGEST_ERROR: Final = 4096  # bytes of the end of stderr that become the text of an error
_RETRY: Final = os.EX_TEMPFAIL  # 75
_REJECT: Final = os.EX_DATAERR  # 65


class ExecWorker(CommandWorker):
    """Runs the command once for each workitem: the body is its stdin, its stdout is the result."""

    def __init__(self, options: CommandOptions) -> None:
        super().__init__(options)
        self._arguments = arguments(options.command)

    def setup(self) -> None:
        """Prepare to start the command. Raises PluginError."""
        super().setup()
        try:
            programs.prepare_to_spawn()
        except FileNotFoundError as error:
            raise PluginError(str(error)) from None

    def handle_task(self, body: Any) -> Any:
        """Run the command; return its output."""
        filled = self._filled(body)
        item = self.workitem
        environment = self.environment(
            id=item.id,
            attempt=str(item.attempt),
            type=item.worker_type,
            tenant=tenant_of(item.properties),
        )
        status, output, end = self._run(filled, environment, plain_body(item))
        if status < 0:  # a crash of the workitem, as that of a plugin's worker is
            self.log.error("%s was %s", self.program, described(status))
            programs.die_as(status)
        if status == 0:
            return self._result(output)
        text = end or described(status)
        if status == _RETRY:
            raise untraced(Retry(text))
        if status == _REJECT:
            raise untraced(Reject(text))
        raise CommandFailed(f"{described(status)}: {end}" if end else text)

    def _filled(self, body: Any) -> list[bytes]:
        try:
            values = self._values(body) if any(each.fields for each in self._arguments) else {}
            return [each.fill(values) for each in self._arguments]
        except BadField as error:
            raise BadArguments(str(error)) from None

    def _values(self, body: Any) -> Mapping[str, Any]:
        """Return the values of placeholders: members of a JSON body, headers beside any other body."""
        if jsonrpc.is_request(body):
            body = body.get("params")
        return body if isinstance(body, dict) else self.workitem.headers

    def _result(self, output: bytes) -> Any:
        kind = media_type(self.options.result_type)
        if kind == JSON:
            try:
                return jsonrpc.decode(output)
            except (ValueError, RecursionError) as error:
                raise CommandFailed(f"its output is not JSON: {error}") from None
        if self.options.result_type == TEXT:
            return output.decode("utf-8", "surrogateescape")
        return Content(self.options.result_type, output)

    def _run(
        self, filled: list[bytes], environment: Mapping[bytes, bytes], body: bytes
    ) -> tuple[int, bytes, str]:
        """Run the command to its end; return its exit status, its output and the end of its stderr.

        Nothing that it started outlives it.
        """
        running = _Running(self.options.max_result)
        try:
            running.start(filled, environment, body, self.options.cpu_limit)
            return running.wait()
        except TaskTimeout:
            self.is_spent = not programs.terminate(self.kill_delay())
            raise
        except OSError as error:
            if error.errno == errno.E2BIG:
                raise BadArguments("the arguments are longer than the system allows") from None
            self.is_spent = True  # the next worker tells why, and takes no workitem meanwhile
            raise Retry(f"{self.program} cannot be started: {error.strerror}") from None
        finally:
            self.is_spent |= not programs.end_all()
            running.close()


class _Running:
    """A running process of the command, its output and its files."""

    def __init__(self, most: int) -> None:
        """Make the pipes; `most` is the maximum size of the output in bytes."""
        self._most = most
        self._files: set[int] = set()
        self._output = bytearray()
        self._errors = _Errors()
        self._pid = 0

    def start(
        self, filled: list[bytes], environment: Mapping[bytes, bytes], body: bytes, cpu_limit: int
    ) -> None:
        """Start the process. Raises OSError if that fails."""
        stdin = self._file_of(body)
        self._stdout, their_stdout = self._pipe()
        self._stderr, their_stderr = self._pipe()
        files = {0: stdin, 1: their_stdout, 2: their_stderr}
        self._pid = programs.spawn(programs.Program(filled, environment, files, cpu_limit))
        for each in files.values():
            self._close(each)
        self._end = os.pidfd_open(self._pid)
        self._files.add(self._end)

    def _file_of(self, body: bytes) -> int:
        """Return a file in memory with the body: a program that does not read it blocks nobody."""
        file = os.memfd_create("stdin")
        self._files.add(file)
        rest = memoryview(body)
        while rest:
            rest = rest[os.write(file, rest) :]
        os.lseek(file, 0, os.SEEK_SET)
        return file

    def _pipe(self) -> tuple[int, int]:
        ends = os.pipe()
        self._files.update(ends)
        os.set_blocking(ends[0], False)
        return ends

    def wait(self) -> tuple[int, bytes, str]:
        """Wait for the end of the process; return its exit status, its output and the end of its stderr.

        Raises OSError if the program could not be executed.
        """
        poll = select.poll()
        for file in (self._stdout, self._stderr, self._end):
            poll.register(file, select.POLLIN)
        while True:
            ready = [file for file, _ in poll.poll()]
            for file in (each for each in ready if each != self._end):
                if self._read(file) == b"":
                    poll.unregister(file)
            if self._end in ready:
                break
        was_executed = programs.was_executed(self._pid)
        status = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
        for file in (self._stdout, self._stderr):
            left = fcntl.fcntl(file, fcntl.F_GETPIPE_SZ)  # bytes; processes that it has left may write more
            while left > 0 and (data := self._read(file)):
                left -= len(data)
        end = self._errors.end()
        if not was_executed:
            raise OSError(0, end.rpartition(": ")[2])  # its launcher has written the reason
        return status, bytes(self._output), end

    def _read(self, file: int) -> bytes | None:
        """Take a chunk of output and return it; None if there is none now, b"" at its end."""
        try:
            data = os.read(file, _CHUNK)
        except BlockingIOError:
            return None
        if file == self._stderr:
            self._errors.take(data)
            return data
        self._output += data
        if len(self._output) > self._most:
            raise CommandFailed(f"its output has more than {self._most} bytes (max_result)")
        return data

    def _close(self, file: int) -> None:
        self._files.discard(file)
        os.close(file)

    def close(self) -> None:
        """Close all files."""
        for file in tuple(self._files):
            self._close(file)


class _Errors:
    """The stderr of a process: it goes to the log, and its end is kept."""

    def __init__(self) -> None:
        self._kept = b""
        self._is_cut = False
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")

    def take(self, data: bytes) -> None:
        """Take a chunk."""
        self._is_cut |= len(self._kept) + len(data) > _LONGEST_ERROR
        self._kept = (self._kept + data)[-_LONGEST_ERROR:]
        sys.stderr.write(self._decoder.decode(data))

    def end(self) -> str:
        """End the last line in the log; return the last lines."""
        if self._kept and not self._kept.endswith(b"\n"):
            sys.stderr.write(self._decoder.decode(b"", final=True) + "\n")
        _, newline, rest = self._kept.partition(b"\n")
        kept = rest if self._is_cut and newline and rest.strip() else self._kept
        return kept.decode("utf-8", "replace").strip()
