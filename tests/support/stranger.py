"""Another user of the machine, who listens where a broker should, and notes what it is told."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.waiting import wait_until

NOBODY = 65534

#: AMQP 0-9-1: the frame in which a broker says who it is and asks for credentials (connection.start).
_METHOD = b"\x00\x0a\x00\x0a\x00\x09\x00\x00\x00\x00\x00\x00\x00\x05PLAIN\x00\x00\x00\x05en_US"
CONNECTION_START = b"\x01\x00\x00" + len(_METHOD).to_bytes(4, "big") + _METHOD + b"\xce"


def listen(port: int, notes: str) -> None:
    """Be nobody, listen at a loopback port that may be bound already, and play a broker's beginning."""
    os.closerange(3, 100)  # what a test's server has, this user has not
    heard = Path(notes).open("ab", buffering=0)  # noqa: SIM115 -- to the end
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    with heard, socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("127.0.0.1", port))
        listening.listen()
        heard.write(b"listens\n")
        while True:
            connection, _ = listening.accept()
            with connection:
                connection.settimeout(5)
                try:
                    heard.write(connection.recv(8) + b"\n")
                    connection.sendall(CONNECTION_START)
                    heard.write(connection.recv(4096) + b"\n")
                except OSError:
                    pass


@contextmanager
def stranger(port: int, notes: Path) -> Iterator[None]:
    """Have nobody listen at a port; what it is told is in the file `notes`."""
    program = f"from support.stranger import listen; listen({port}, {str(notes)!r})"
    command = [sys.executable, "-c", program]
    variables = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    with subprocess.Popen(["setpriv", "--pdeathsig", "KILL", *command], env=variables) as process:
        try:
            wait_until(lambda: notes.exists() and notes.read_bytes().startswith(b"listens"))
            yield
        finally:
            process.kill()
