"""A RabbitMQ node of the user's own: for `taskqueue up` on one machine, and for tests.

It runs as the user who starts it, listens on one loopback port and nowhere else, asks for a
generated password, and does not outlive the process that started it.

Every user of the machine can listen on a port that is free. So the port is another one at each start, nobody
is told the address before the node itself is seen to listen there, and our clients look who it is that
answers before they send the password (AmqpSettings.owner).
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
    advanced_config,
    complaint,
    environment,
    installed_home,
    scripts_dir,
)
from taskqueue.private_broker.state import PrivateState, default_state_dir

STOP_TIMEOUT = 10  # seconds; RabbitMQ heeds no SIGTERM while it boots, and is killed then
POLL_DELAY = 0.02

# AMQP 0-9-1, section 4.2.2: what a client sends first. A broker that is ready answers with a frame.
PROTOCOL_HEADER = b"AMQP\x00\x00\x09\x01"

# The kernel stops the node when its owner dies, even of SIGKILL. The shell closes the gap in which
# the owner could die before the kernel was asked. Without a time, timeout(1) passes SIGTERM on,
# and SIGKILL after it.
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
    """Return the URL, password included, of the private broker that is ready on `state_dir`, or None.

    Without `state_dir` the user's default one is meant.
    """
    return PrivateState(state_dir or default_state_dir()).address()


class PrivateBroker:
    """One RabbitMQ node on one state directory, owned by the calling process.

    It may be stopped, or killed, and started again: data and password stay, and after a kill the port, too,
    unless somebody else has taken it meanwhile. As a context manager it is started on entry and stopped on
    exit. Start it from a thread that lasts as long as the node is wanted: the kernel takes the death of that
    thread for the owner's.
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
        """Describe the node; nothing is started yet.

        Args:
            state_dir: made if missing; None for the user's default one.
            rabbit_settings: more settings of the application `rabbit`, name to Erlang term, such as
                {"max_message_size": "16777216"}.
            keep_data: False removes the state directory when the node is stopped.
            control_port: a loopback port for Erlang's own tools (erl_call), which must show the cookie
                that lies in the state directory; None for no such listener.
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
        """The AMQP URL, password included, of the started node; its virtual host is `/`.

        That is written out, because some clients (amqp-tools) take nothing after the slash for a virtual
        host without a name.
        """
        return f"amqp://{USER}:{self._state.password()}@{HOST}:{self.port}/%2F"

    @property
    def address_file(self) -> Path:
        """The file, for its owner only, that holds `url` while the node is ready."""
        return self._state.address_file

    @property
    def port(self) -> int:
        """The AMQP port of the started node."""
        if self._reserved is None:
            raise BrokerUnavailable("the private broker is not started")
        return int(self._reserved.getsockname()[1])

    @property
    def pid(self) -> int:
        """The process id that the started node has: it leads the session of all its processes."""
        if self._process is None:
            raise BrokerUnavailable("the private broker is not started")
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the node's process exists."""
        return self._process is not None and self._process.poll() is None

    def start(self, timeout: float = 60) -> None:
        """Start the node and return when it accepts connections; do nothing if it runs already.

        Args:
            timeout: seconds the node may take.

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
            while not self._await_ready(deadline):  # somebody else has the port
                self.kill()
                self._give_port_up()
                self._spawn(deadline)
        except BaseException:
            self.kill()
            self._release()
            raise

    def stop(self) -> None:
        """Stop the node, in good order if its data is kept, and give the state directory up."""
        if self._process is not None and self._keep_data:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_TIMEOUT)
        self.kill()
        if self._state.claimed and not self._keep_data:
            shutil.rmtree(self.state_dir, ignore_errors=True)
        self._release()

    def kill(self) -> None:
        """Kill the node with SIGKILL and wait until it is gone."""
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
        self._give_port_up()
        self._process = None
        self._state.release()

    def _give_port_up(self) -> None:
        if self._reserved is not None:
            self._reserved.close()
        self._reserved = None

    def _spawn(self, deadline: float) -> None:
        """Start the node's process, which holds the node's lock from its first moment to its last."""
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
                    # Ctrl-C in a terminal is for the owner, who stops the node in its turn.
                    start_new_session=True,
                )
        finally:
            os.close(lock)

    def _node_lock(self, deadline: float) -> int:
        """Return the locked node.lock; the orphan of an owner that was killed needs a second to stop."""
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
        """Wait until the node accepts connections; False if somebody else listens on its port.

        A socket of this user's that the node does not hold is looked at twice: the node may have closed it
        between the two looks at the kernel's tables that tell its holder.
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

    The node can listen there all the same. While it is down, the kernel gives the port to no client, which
    could otherwise connect to itself while it tries to reconnect.
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
