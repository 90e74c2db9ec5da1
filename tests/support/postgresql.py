"""A PostgreSQL server of the tests: a cluster of its own, at a Unix socket and on loopback."""

import contextlib
import itertools
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.waiting import wait_until

_BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
PASSWORD = "correct horse"
NEAR, FAR = "198.18.213.1", "198.18.213.2"  # this host, and the server's, at a line of their own (RFC 2544)


class PostgreSQL:
    """A server. The socket asks for no password, loopback for that of the role `locked`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.data = directory / "data"
        self._process: subprocess.Popen[bytes] | None = None
        self._numbers = itertools.count()
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            self.port = sock.getsockname()[1]
        self._user = "postgres" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
        directory.mkdir(parents=True)
        directory.chmod(0o755)
        if os.geteuid() == 0:
            shutil.chown(directory, "postgres")
        self._run("initdb", "-D", self.data, "-A", "trust", "-U", "postgres", "-E", "UTF8", "--no-sync")
        hba = "local all all trust\nhost all all 127.0.0.1/32 scram-sha-256\n"
        hba += f"host all all {NEAR}/32 trust\n"
        (self.data / "pg_hba.conf").write_text(hba)

    @staticmethod
    def is_installed() -> bool:
        return bool(_BINARIES)

    def _run(self, program: str, *arguments: object) -> None:
        command = [str(_BINARIES[-1].parent / program), *map(str, arguments)]
        done = subprocess.run(
            command, user=self._user, cwd=self.directory, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr

    def start(self, network: int | None = None) -> None:
        """Start it; network -- a process whose network is the server's host, where it listens everywhere."""
        settings = {
            "unix_socket_directories": self.directory,
            "listen_addresses": "127.0.0.1" if network is None else "*",
            "port": self.port,
            "fsync": "off",
            "max_connections": 50,
        }
        options = [part for key, value in settings.items() for part in ("-c", f"{key}={value}")]
        with_tests = ("setpriv", "--pdeathsig", "QUIT")
        command = [*with_tests, _BINARIES[-1], "-D", self.data, *options]
        if network is not None:
            become = ("setpriv", "--reuid", self._user, "--regid", self._user, "--clear-groups")
            command = ["nsenter", f"--net=/proc/{network}/ns/net", *become, *command]
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command, user=self._user if network is None else None, cwd=self.directory,
                stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        wait_until(self._is_ready, 30, (self.directory / "log").read_text)

    def _is_ready(self) -> bool:
        command = [_BINARIES[-1].parent / "pg_isready", "-q", "-h", self.directory, "-p", str(self.port)]
        return subprocess.run(command, check=False).returncode == 0

    def stop(self, how: int = signal.SIGINT) -> None:
        """Stop the server: SIGINT is its fast shutdown, SIGQUIT the immediate one, as a crash."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(30)
            self._process = None

    def query(self, statement: str, database: str = "postgres") -> str:
        """Run a statement by PostgreSQL's own client; return its rows, with fields separated by |."""
        command = [
            *(
                str(_BINARIES[-1].parent / "psql"),
                "-XAtq",
                "-v",
                "ON_ERROR_STOP=1",
                "-h",
                str(self.directory),
            ),
            *("-p", str(self.port), "-U", "postgres", "-d", database, "-c", statement),
        ]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    def new_database(self) -> str:
        """Make a database; return its URL."""
        name = f"record{next(self._numbers)}"
        self.query(f"CREATE DATABASE {name}")
        return self.url(name)

    def url(self, name: str) -> str:
        return f"postgresql:///{name}?host={self.directory}&port={self.port}&user=postgres"


@contextlib.contextmanager
def running_server(network: int | None = None) -> Iterator[PostgreSQL]:
    """Run a server, perhaps in another network. Without PostgreSQL skip the test, or fail it if CI is set."""
    if not PostgreSQL.is_installed():
        (pytest.fail if os.environ.get("CI") else pytest.skip)("PostgreSQL is not installed")
    directory = Path(tempfile.mkdtemp(prefix="tq-pg-"))
    directory.chmod(0o755)
    server = PostgreSQL(directory / "server")
    try:
        server.start(network)
        yield server
    finally:
        server.stop()
        shutil.rmtree(directory, ignore_errors=True)
