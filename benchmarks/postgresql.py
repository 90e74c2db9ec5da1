"""A PostgreSQL server of the benchmark's own, with default settings, at a Unix socket alone."""

import contextlib
import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from benchmarks.ground import BenchmarkFailed, Ground

_PROGRAMS: Final = sorted(
    Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name)
)  # Debian's, by their release


@contextlib.contextmanager
def server(ground: Ground) -> Iterator[str | None]:
    """Run a server; yield the URL of a database, or None where PostgreSQL is not installed."""
    if not _PROGRAMS:
        yield None
        return
    user = "postgres" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
    directory = ground.directory / "postgresql"
    directory.mkdir(mode=0o700)
    command = [str(_PROGRAMS[-1] / "postgres"), "-D", str(directory), "-k", str(directory)]
    if os.geteuid() == 0:
        ground.directory.chmod(0o711)
        shutil.chown(directory, user)
        become = ("setpriv", "--reuid", user, "--regid", user, "--clear-groups", "--pdeathsig", "KILL")
        command = [*become, *command]
    _initialise(directory, user)
    started = ground.start([*command, "-c", "listen_addresses="])
    with ground.running([started.wait_for("ready to accept connections")]):
        yield f"postgresql:///postgres?host={directory}&user=taskqueue"


def _initialise(directory: Path, user: str) -> None:
    command = [
        str(_PROGRAMS[-1] / "initdb"),
        "-D",
        str(directory),
        "-A",
        "trust",
        "-U",
        "taskqueue",
        "-E",
        "UTF8",
    ]
    done = subprocess.run(command, user=user, cwd="/", capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchmarkFailed(f"initdb failed:\n{done.stderr[-2000:]}")
