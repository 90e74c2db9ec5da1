"""`taskqueue dispatcher`, `workerpool` and `flow`: in the foreground or background, with a pid file."""

import contextlib
import itertools
import os
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Final, NoReturn

import click

from taskqueue import address
from taskqueue.address import Source
from taskqueue.cli import options
from taskqueue.config import LoggingSettings
from taskqueue.dispatcher.daemon import DispatcherDaemon, FlowDaemon
from taskqueue.process import logs, startup
from taskqueue.process.daemon import detach, foreground
from taskqueue.process.supervisor_loop import SupervisorLoop
from taskqueue.supervisor import Supervisor, read_plan

#: Options of every daemon.
daemon_options: Final = options.together(
    options.broker_options,
    click.option("-f", "--foreground", "stay", is_flag=True, help="Stay in the foreground."),
    click.option("-p", "--pidfile", metavar="FILE", help="Write the process id to FILE, and lock it."),
)


def _arguments(name: str, source: Source, pidfile: str | None, *, stay: bool) -> list[str]:
    return [name, *options.as_words(config=source.path, pidfile=pidfile, foreground=stay)]


@click.command(short_help="Route workitems to the queues of their worker types.")
@daemon_options
def dispatcher(source: Source, pidfile: str | None, *, stay: bool) -> None:
    """Route workitems from the queue `taskqueue` to the queues of their worker types.

    SIGTERM ends it once sent workitems are confirmed; SIGHUP reads the configuration again.
    """
    arguments = _arguments("dispatcher", source, pidfile, stay=stay)
    options.hide_address(source, arguments)
    daemon = DispatcherDaemon(source)
    options.need_address(source, arguments, is_configured=daemon.settings.amqp is not None)
    run(daemon, daemon.settings.logging, source, stay=stay, pidfile=pidfile)


@click.command(short_help="Keep workflows, and run their steps in order.")
@daemon_options
@click.option("--database", hidden=True)
def flow(source: Source, pidfile: str | None, *, stay: bool, database: str | None) -> None:
    """Keep workflows: publish their steps in order, and take note of each step's end.

    A dispatcher daemon does this, too, if its configuration has a section [flow]. Of several flow processes,
    others stand by. SIGTERM ends it; SIGHUP reads the configuration again.
    """
    arguments = [*_arguments("flow", source, pidfile, stay=stay), *options.as_words(database=database)]
    options.hide_address(source, arguments)
    daemon = FlowDaemon(source, database)
    options.need_address(source, arguments, is_configured=daemon.settings.amqp is not None)
    run(daemon, daemon.settings.logging, source, stay=stay, pidfile=pidfile)


@click.command(short_help="Run the plugins that are installed on this host.")
@daemon_options
def workerpool(source: Source, pidfile: str | None, *, stay: bool) -> None:
    """Run the plugins that are installed on this host, in worker processes of their own.

    SIGTERM lets running workitems finish, for stop_timeout seconds, and ends; a second one ends at once.
    SIGHUP reads the configuration again, finds new plugins, and restarts only the groups that changed.
    """
    arguments = _arguments("workerpool", source, pidfile, stay=stay)
    options.hide_address(source, arguments)
    supervisor = Supervisor(partial(read_plan, source.path), source)
    options.need_address(source, arguments, is_configured=supervisor.plan.has_broker)
    if pid := _already_running("workerpool", source.path, pidfile):
        words = "both take work now, each with as many workers as are configured"
        startup.complain(
            f"taskqueue: warning: process {pid} is a worker pool on the same configuration: {words}\n"
        )
    run(supervisor, supervisor.plan.logging, source, stay=stay, pidfile=pidfile)


def run(
    supervisor: SupervisorLoop,
    logging: LoggingSettings,
    source: Source,
    *,
    stay: bool = True,
    pidfile: str | None = None,
) -> NoReturn:
    """Run a daemon and exit with its status.

    Args:
        supervisor: the daemon.
        logging: the section [logging]; in the background, syslog replaces stderr.
        source: the source of the address; its file stays open.
        stay: whether to stay in the foreground.
        pidfile: the path of the pid file, or None.
    """
    supervisor.in_background = not stay
    if words := logs.detour(logging, in_background=not stay):
        startup.complain(f"taskqueue: warning: {words}\n")
    kept = [source.descriptor] if source.descriptor is not None else []
    with foreground(pidfile) if stay else detach(pidfile, kept) as readiness:
        status = supervisor.run(readiness)
    sys.exit(status)


def _already_running(name: str, path: str | None, pidfile: str | None) -> int | None:
    """Return the id of a process of this user that runs the same daemon on the same configuration.

    Args:
        name: the daemon's command.
        path: its configuration file, or None for none.
        pidfile: of the new daemon; its process is left out, since the locked file makes the start fail.
    """
    found = {pid for pid in _own_processes() if _is_daemon(pid, name, path)}
    named = ""
    if pidfile is not None:
        with contextlib.suppress(OSError):
            named = Path(pidfile).read_text(encoding="ascii", errors="replace").strip()
    first = (pid for pid in sorted(found) if _parent(pid) not in found)  # without their children
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
        # The path is relative to the root directory and the current directory of the other process.
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
