"""A private RabbitMQ node: for `taskqueue up` on one machine, and for tests.

It runs as the user who starts it, listens on one loopback port only, requires a generated password, and ends
with the process that started it.

Every user of the machine can listen on a free port. So each start uses another port, the address is published
only once the node itself listens there, and our clients check the listener's user before they send the
password (AmqpSettings.owner).
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from taskqueue.broker.listener import listener_at
from taskqueue.errors import AlreadyRunning, BrokerUnavailable
from taskqueue.private_broker.rabbitmq import (
    HOST,
    SERVER,
    USER,
    PrivateState,
    advanced_config,
    complaint,
    default_state_dir,
    environment,
    installed_home,
    scripts_dir,
)

STOP_TIMEOUT = 10  # seconds; RabbitMQ ignores SIGTERM while it boots, and is then killed
POLL_DELAY = 0.02

# AMQP 0-9-1, section 4.2.2: the first bytes of a client. A ready broker answers with a frame.
PROTOCOL_HEADER = b"AMQP\x00\x00\x09\x01"

# The kernel sends the node a signal when its owner dies, even of SIGKILL. The shell closes the gap before
# that request, in which the owner could die. Without a time limit, timeout(1) forwards SIGTERM and follows it
# with SIGKILL.
# Erlang reserves memory for each file that may be open, and some containers allow a thousand million.
_BECOME_NODE = (
    '[ "$PPID" = "$0" ] || exit; [ "$(ulimit -n)" -le 65536 ] 2>/dev/null || ulimit -Sn 65536; exec "$@"'
)
DIE_WITH_OWNER = ("setpriv", "--pdeathsig", "TERM", "/bin/sh", "-c", _BECOME_NODE)
STOPPED_IN_TIME = (
    "timeout",
    "--foreground",
    f"--kill-after={STOP_TIMEOUT}",
    "0",
    "setpriv",
    "--pdeathsig",
    "KILL",
)


def running(state_dir: Path | None = None) -> str | None:
    """Return the URL, with password, of the private broker that is ready on `state_dir`, or None.

    Without `state_dir` it is the user's default one.
    """
    return PrivateState(state_dir or default_state_dir()).address()


class PrivateBroker:
    """One RabbitMQ node on one state directory, owned by the calling process.

    It may be stopped, or killed, and started again. Data and password are kept; after a kill the port is
    kept, too, unless another process has taken it. As a context manager it starts on entry and stops on exit.
    Start it from a thread that lives as long as the node is needed: the kernel takes that thread's death for
    the owner's.
    """

    def __init__(
        self,
        state_dir: Path | None = None,
        *,
        rabbit_settings: Mapping[str, str] | None = None,
        keep_data: bool = True,
        control_port: int | None = None,
        server: Path = SERVER,
    ) -> None:
        """Describe the node; `start` starts it.

        Args:
            state_dir: created if missing; None: the user's default one.
            rabbit_settings: additional settings of the application `rabbit`, name to Erlang term, such as
                {"max_message_size": "16777216"}.
            keep_data: False removes the state directory when the node is stopped.
            control_port: a loopback port for Erlang's own tools (erl_call), which need the cookie in the
                state directory; None: no such listener.
            server: RabbitMQ's start script.
        """
        self.state_dir = state_dir or default_state_dir()
        self._state = PrivateState(self.state_dir)
        self._rabbit_settings = dict(rabbit_settings or {})
        self._keep_data = keep_data
        self._control_port = control_port
        self._server = server
        self._reserved: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The AMQP URL, with password, of the started node; its virtual host is `/`.

        The virtual host is explicit, because some clients (amqp-tools) read no name after the slash as a
        virtual host without a name.
        """
        return f"amqp://{USER}:{self._state.password()}@{HOST}:{self.port}/%2F"

    @property
    def address_file(self) -> Path:
        """The file that holds `url` while the node is ready. Only its owner can read it."""
        return self._state.address_file

    @property
    def port(self) -> int:
        """The AMQP port of the started node."""
        if self._reserved is None:
            raise BrokerUnavailable("the private broker is not started")
        return int(self._reserved.getsockname()[1])

    @property
    def pid(self) -> int:
        """The process id of the started node, which leads the session of all its processes."""
        if self._process is None:
            raise BrokerUnavailable("the private broker is not started")
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the node's process exists."""
        return self._process is not None and self._process.poll() is None

    def start(self, timeout: float = 60) -> None:
        """Start the node and return once it accepts connections; do nothing if it runs already.

        Args:
            timeout: seconds until the start fails.

        Raises:
            AlreadyRunning: another process runs a node on the same state directory.
            BrokerUnavailable: RabbitMQ is not installed, or does not become ready.
        """
        if self.alive:
            return
        deadline = time.monotonic() + timeout
        installed_home(self._server)
        self._state.claim()
        try:
            self._spawn(deadline)
            while not self._await_ready(deadline):  # another process has the port
                self.kill()
                self._release_port()
                self._spawn(deadline)
        except BaseException:
            self.kill()
            self._release()
            raise

    def stop(self) -> None:
        """Stop the node, with an orderly shutdown if its data is kept, and release the state directory."""
        if self._process is not None and self._keep_data:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_TIMEOUT)
        self.kill()
        if self._state.claimed and not self._keep_data:
            shutil.rmtree(self.state_dir, ignore_errors=True)
        self._release()

    def kill(self) -> None:
        """Kill the node with SIGKILL and wait for its end."""
        if self._process is None:
            return
        if self.alive:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._state.forget_address()

    def __enter__(self) -> Self:
        """Start the node."""
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the node."""
        self.stop()

    def _release(self) -> None:
        self._release_port()
        self._process = None
        self._state.release()

    def _release_port(self) -> None:
        if self._reserved is not None:
            self._reserved.close()
        self._reserved = None

    def _spawn(self, deadline: float) -> None:
        """Start the node's process, which holds the node's lock as long as it lives."""
        lock = self._node_lock(deadline)
        try:
            if self._reserved is None:
                self._reserved = _reserve_port()
            variables = self._configure()
            with self._state.log.open("wb") as log:
                self._process = subprocess.Popen(
                    [*DIE_WITH_OWNER, str(os.getpid()), *STOPPED_IN_TIME, str(self._server)],
                    env=variables,
                    cwd=self.state_dir,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    pass_fds=(lock,),
                    # Ctrl-C in a terminal goes to the owner only, which then stops the node.
                    start_new_session=True,
                )
        finally:
            os.close(lock)

    def _node_lock(self, deadline: float) -> int:
        """Return the locked node.lock; the node of a killed owner needs a second to stop."""
        while (lock := self._state.lock_for_node()) is None:
            if time.monotonic() > deadline:
                raise AlreadyRunning(f"a RabbitMQ node without an owner still uses {self.state_dir}")
            time.sleep(POLL_DELAY)
        return lock

    def _configure(self) -> dict[str, str]:
        """Write the node's files; return its environment."""
        self._state.forget_address()
        self._state.keep_old_log()
        settings = advanced_config(self._state.password(), self._rabbit_settings)
        self._state.write("advanced.config", settings)
        self._state.write("enabled_plugins", "[].\n")
        scripts = scripts_dir(self._server, self.state_dir / "home")
        return environment(self.state_dir, scripts, self.port, self._control_port)

    def _await_ready(self, deadline: float) -> bool:
        """Wait until the node accepts connections; False if another process listens on its port.

        A socket of this user's that the node does not hold must be seen twice: the node may have closed it
        between the reads of the two kernel tables that name its holder.
        """
        doubted = None
        while True:
            listening = listener_at(self.port)
            if listening is None:
                pass
            elif listening.uid != os.geteuid():
                return False
            elif not listening.is_held_in(self.pid):
                if listening == doubted:
                    return False
                doubted = listening
            elif _speaks_amqp(self.port):
                self._state.write(self.address_file.name, self.url)
                return True
            if not self.alive:
                raise BrokerUnavailable(f"RabbitMQ does not start; {self._last_words()}")
            if time.monotonic() > deadline:
                raise BrokerUnavailable(f"RabbitMQ is not ready in time; {self._last_words()}")
            time.sleep(POLL_DELAY)

    def _last_words(self) -> str:
        log = self._state.log
        return f"{log} says: {complaint(log.read_text(encoding='utf-8', errors='replace'))}"


def _reserve_port() -> socket.socket:
    """Bind any free loopback port, and keep it bound.

    The node can listen there nevertheless. While the node is down, the kernel gives the port to no client; a
    client that reconnects could otherwise connect to itself.
    """
    reserved = socket.socket()
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    reserved.bind((HOST, 0))
    return reserved


def _speaks_amqp(port: int) -> bool:
    """Return whether a broker answers on a loopback port."""
    try:
        with socket.create_connection((HOST, port), timeout=1) as connection:
            connection.sendall(PROTOCOL_HEADER)
            return bool(connection.recv(1))
    except OSError:
        return False
