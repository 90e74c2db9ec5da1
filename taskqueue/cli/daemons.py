"""The common part of the two daemons' commands: to the background or not, with a log and a pid file."""

import contextlib
import itertools
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from taskqueue import address
from taskqueue.config import LoggingSettings
from taskqueue.process import logs, startup
from taskqueue.process.daemon import detach, foreground
from taskqueue.process.supervisor_loop import SupervisorLoop


def run(
    supervisor: SupervisorLoop,
    logging: LoggingSettings,
    *,
    stay: bool,
    pidfile: str | None,
    amqp_fd: int | None,
) -> NoReturn:
    """Run a daemon and exit with its status.

    Args:
        supervisor: the daemon.
        logging: the section [logging]; what would go to stderr goes to syslog once there is no terminal.
        stay: in the foreground.
        pidfile: the path of the pid file, or None.
        amqp_fd: an open file that must stay open, or None.
    """
    supervisor.in_background = not stay
    if words := logs.detour(logging, in_background=not stay):
        startup.complain(f"taskqueue: warning: {words}\n")
    kept = [amqp_fd] if amqp_fd is not None else []
    with foreground(pidfile) if stay else detach(pidfile, kept) as readiness:
        status = supervisor.run(readiness)
    sys.exit(status)


def already_running(name: str, path: str | None, pidfile: str | None) -> int | None:
    """Return the id of a process of this user that runs the same daemon on the same configuration.

    Args:
        name: the daemon's command.
        path: its configuration file, or None for none.
        pidfile: of the daemon to be; who is named there is not meant, as the start is refused then.
    """
    found = {pid for pid in _own_processes() if _is_daemon(pid, name, path)}
    named = ""
    if pidfile is not None:
        with contextlib.suppress(OSError):
            named = Path(pidfile).read_text(encoding="ascii", errors="replace").strip()
    first = (pid for pid in sorted(found) if _parent(pid) not in found)  # and not what it has just forked
    return next((pid for pid in first if str(pid) != named), None)


def _own_processes() -> Iterator[int]:
    for process in Path("/proc").iterdir():
        with contextlib.suppress(OSError):  # gone meanwhile
            if process.name.isdigit() and process.stat().st_uid == os.geteuid():
                yield int(process.name)


def _is_daemon(pid: int, name: str, path: str | None) -> bool:
    process = Path("/proc", str(pid))
    try:
        words = [os.fsdecode(word) for word in (process / "cmdline").read_bytes().split(b"\0")]
        is_python = (process / "exe").readlink().name.startswith("python")
        if pid == os.getpid() or not is_python or name not in words:
            return False
        theirs = _config_of(words, name)
        if theirs is None or path is None:
            return theirs is path
        # The same path is another file in another container, and a relative one begins in its directory.
        place = process / "root" / theirs.lstrip("/") if theirs.startswith("/") else process / "cwd" / theirs
        return os.path.samestat(place.stat(), Path(path).stat())
    except OSError:  # gone meanwhile
        return False


def _config_of(words: list[str], name: str) -> str | None:
    """Return the path of the configuration in a command line, or the system's."""
    rest = words[words.index(name) :]
    for word, following in itertools.pairwise([*rest, ""]):
        if word in ("-c", "--config"):
            return following
        if word.startswith("--config="):
            return word.removeprefix("--config=")
    return address.config_path(None)


def _parent(pid: int) -> int:
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b") ")[2].split()[1])
    return 0
