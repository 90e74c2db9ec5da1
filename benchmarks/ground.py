"""The ground of a benchmark: private nodes of RabbitMQ and Redis, a directory, processes that end with it."""

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import pika

from taskqueue.private_broker import PrivateBroker

ROOT: Final = Path(__file__).parents[1]
START_TIMEOUT: Final = 60.0  # seconds
_DIE_WITH_US: Final = ("setpriv", "--pdeathsig", "KILL", "--")


class BenchmarkFailed(Exception):
    """A measurement could not be made; the text says why."""


class Process:
    """A child, whose output goes to a file; it dies with us."""

    def __init__(self, command: Sequence[str], directory: Path, env: Mapping[str, str]) -> None:
        """Start it, in a session of its own."""
        self.command = command
        with tempfile.NamedTemporaryFile(dir=directory, suffix=".out", delete=False) as output:
            self.output = Path(output.name)
            self._process = subprocess.Popen(
                [*_DIE_WITH_US, *command],
                cwd=directory,
                env={**os.environ, **env},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def text(self) -> str:
        """Return what it has written."""
        return self.output.read_text(encoding="utf-8", errors="replace")

    def wait_for(self, word: str, times: int = 1) -> Self:
        """Wait until it has written something so often."""

        def written() -> bool:
            if self._process.poll() is not None and self.text().count(word) < times:
                raise BenchmarkFailed(f"{' '.join(self.command)} ended:\n{self.text()[-2000:]}")
            return self.text().count(word) >= times

        wait_until(written, START_TIMEOUT, f"{word!r} of {' '.join(self.command)}")
        return self

    def result(self, timeout: float) -> dict[str, Any]:
        """Wait for its end; return the JSON object that it wrote last."""
        try:
            status = self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise BenchmarkFailed(f"no end of {' '.join(self.command)} within {timeout:g} s") from None
        if status:
            raise BenchmarkFailed(f"{' '.join(self.command)} failed:\n{self.text()[-2000:]}")
        found: dict[str, Any] = json.loads(self.text().splitlines()[-1])
        return found

    def stop(self, timeout: float = 20.0) -> None:
        """End it with SIGTERM, and its whole session after `timeout` seconds."""
        self._process.terminate()
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """End it and its session with SIGKILL."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()


class Ground:
    """The nodes and the directory; a context manager that leaves nothing behind."""

    def __init__(self) -> None:
        """Prepare; entering starts everything."""
        self.directory = Path(tempfile.mkdtemp(prefix="taskqueue-bench-", dir="/var/tmp"))
        self.directory.chmod(0o755)  # workers that root starts have a user of their own
        self._node = PrivateBroker(self.directory / "broker", keep_data=False)
        self._processes: list[Process] = []
        self._connection: Any = None
        self._channel: Any = None
        self._queues: set[str] = set()
        self.redis_port = 0
        self._redis_password = secrets.token_hex(16)

    def __enter__(self) -> Self:
        """Start both nodes."""
        self._node.start()
        self.redis_port = free_port()
        self.start(["redis-server", str(self._redis_config())]).wait_for("Ready to accept")
        return self

    def _redis_config(self) -> Path:
        """Write Redis's configuration: in memory only, on loopback only, for nobody without the password."""
        path = self.directory / "redis.conf"
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(
                f"bind 127.0.0.1\nport {self.redis_port}\nrequirepass {self._redis_password}\n"
                'save ""\nappendonly no\n'
            )
        return path

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End every process, and remove the directory."""
        if self._connection is not None:
            with contextlib.suppress(pika.exceptions.AMQPError):  # it has broken
                self._connection.close()
        for process in self._processes:
            process.kill()
        self._node.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    # --- processes ---

    @property
    def env(self) -> dict[str, str]:
        """Return where the nodes are, for processes that measure."""
        return {
            "AMQP_URL": self._node.url,
            "TASKQUEUE_AMQP": self._node.url,
            "REDIS_URL": self.redis_url,
            "RQ_REDIS_URL": self.redis_url,
            "PYTHONPATH": f"{ROOT}:{self.directory / 'plugins'}",
            "XDG_STATE_HOME": str(self.directory / "state"),
        }

    @property
    def redis_url(self) -> str:
        """Redis's URL, with its password; in the environment of those who measure, and in no arguments."""
        return f"redis://:{self._redis_password}@127.0.0.1:{self.redis_port}"

    @property
    def url(self) -> str:
        """The AMQP URL."""
        return self._node.url

    @property
    def broker_pid(self) -> int:
        """The process id of RabbitMQ."""
        return self._node.pid

    def start(
        self, command: Sequence[str], *, directory: Path | None = None, env: Mapping[str, str] | None = None
    ) -> Process:
        """Start a process that is killed, at the latest, when the benchmark ends."""
        process = Process(command, directory or self.directory, self.env | dict(env or {}))
        self._processes.append(process)
        return process

    def module(self, name: str, *arguments: object) -> Process:
        """Start one of our own modules with this Python."""
        return self.start([sys.executable, "-P", "-m", name, *map(str, arguments)])

    @contextlib.contextmanager
    def running(self, processes: Iterable[Process]) -> Iterator[list[int]]:
        """Stop processes at the end; yield their process ids."""
        started = list(processes)
        try:
            yield [process.pid for process in started]
        finally:
            for process in started:
                process.stop()

    # --- queues ---

    def declare(self, *queues: str) -> None:
        """Make durable queues, empty."""
        for queue in queues:
            self._open().queue_declare(queue, durable=True)
            self._open().queue_purge(queue)
            self._queues.add(queue)

    @contextlib.contextmanager
    def stream_of_events(self) -> Iterator[None]:
        """Have a stream take all events, as the monitor's does."""
        channel, name = self._open(), "taskqueue_events"
        channel.exchange_declare(name, "fanout", durable=True)
        channel.queue_declare(name, durable=True, arguments={"x-queue-type": "stream"})
        channel.queue_bind(name, name)
        yield
        self.delete_events()

    def publish_events(self, bodies: Iterable[bytes]) -> None:
        """Publish batches of events."""
        for body in bodies:
            self._open().basic_publish("taskqueue_events", "", body)

    def publish(self, queue: str, bodies: Iterable[bytes]) -> None:
        """Publish persistent JSON, unconfirmed."""
        kind = pika.BasicProperties(content_type="application/json", delivery_mode=2)
        for body in bodies:
            self._open().basic_publish("", queue, body, kind)

    def delete_events(self) -> None:
        """Delete the stream of events."""
        self.delete("taskqueue_events")

    def delete(self, queue: str) -> None:
        """Delete a queue, if there is one."""
        self._open().queue_delete(queue)

    def depth(self, queue: str) -> int:
        """Return how many messages wait in a queue."""
        return int(self._open().queue_declare(queue, passive=True).method.message_count)

    def clear(self) -> None:
        """Delete the queues that were declared here."""
        for queue in self._queues:
            self._open().queue_delete(queue)
        self._queues.clear()

    def fill(
        self,
        queue: str,
        bodies: Sequence[str],
        types: Sequence[str],
        count: int,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Put `count` messages into a queue; see `submit_bare`."""
        self.submit_bare(queue, bodies, types, count, headers)
        wait_until(lambda: self.depth(queue) >= count, START_TIMEOUT, f"{count} messages in {queue}")

    def submit_bare(
        self,
        queue: str,
        bodies: Sequence[str],
        types: Sequence[str],
        count: int,
        headers: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """Publish `count` messages with bare pika; return rate and processor time.

        headers -- the messages' headers; {} in a text becomes the message's number
        """
        file = self.directory / "bodies"
        file.write_text(json.dumps(list(bodies)), encoding="utf-8")
        names = ",".join(types)
        asked = queue, file, names, count, json.dumps(headers or {})
        return self.module("benchmarks.bare", "submit", *asked).result(600)

    def _open(self) -> Any:
        if self._connection is not None:
            try:
                self._connection.process_data_events()  # answers heartbeats
            except pika.exceptions.AMQPError:
                self._connection = None
        if self._connection is None:
            self._connection = pika.BlockingConnection(pika.URLParameters(f"{self.url}?heartbeat=0"))
            self._channel = self._connection.channel()
        return self._channel


def wait_until(condition: Callable[[], bool], timeout: float, what: str, delay: float = 0.005) -> None:
    """Wait for a condition; BenchmarkFailed after `timeout` seconds.

    delay -- seconds between two looks
    """
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise BenchmarkFailed(f"waited {timeout:g} s in vain for {what}")
        time.sleep(delay)


def free_port() -> int:
    """Return a TCP port of this machine that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
