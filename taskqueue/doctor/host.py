"""Whether this host has room for what runs on it: open files, disk space, memory."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from taskqueue.config import GroupSettings, Settings
from taskqueue.doctor.finding import Finding, Level
from taskqueue.errors import ConfigError
from taskqueue.monitor import place
from taskqueue.private_broker.rabbitmq import default_state_dir
from taskqueue.process.usage import resident_memory
from taskqueue.texts import counted

_TITLE: Final = "taskqueue: "
_FULL: Final = 0.9  # part of the open files, or of the memory, from which on it is a warning
_MEBIBYTE: Final = 1024 * 1024
#: A file system with less free space than either bound is a warning, or an error: bytes, and a part.
_LOW: Final = ((Level.ERROR, 100 * _MEBIBYTE, 0.01), (Level.WARNING, 1024 * _MEBIBYTE, 0.05))
#: Bytes of a worker of which none runs yet, and of a consumer (docs/operations.md).
_WORKER, _CONSUMER = int(7.2 * _MEBIBYTE), int(15.4 * _MEBIBYTE)
_BROKER_DATA: Final = Path("/var/lib/rabbitmq")


@dataclass(frozen=True, slots=True)
class Process:
    """A process of taskqueue on this host.

    Args:
        title: as `ps` shows it, without "taskqueue: ".
        rss: bytes of resident memory.
        open_files: files that it has open, and how many it may have; None if the user must not see that.
    """

    title: str
    rss: int = 0
    open_files: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Disk:
    """A file system.

    Args:
        path: a directory on it.
        purpose: of that directory, in words.
        free: bytes that users may still write.
        total: its bytes.
    """

    path: str
    purpose: str
    free: int
    total: int


@dataclass(frozen=True, slots=True)
class HostFacts:
    """What is known of this host.

    Args:
        processes: those of taskqueue.
        disks: file systems that it writes to.
        memory: bytes of this machine's memory; 0 if they are not known.
        groups: those of the pool that the configuration describes.
    """

    processes: tuple[Process, ...] = ()
    disks: tuple[Disk, ...] = ()
    memory: int = 0
    groups: tuple[GroupSettings, ...] = ()


def collect(settings: Settings, proc: Path = Path("/proc")) -> HostFacts:
    """Look at this host.

    Args:
        settings: the configuration.
        proc: the directory with the processes (proc(5)).
    """
    places = [(path, purpose) for path, purpose in _places(settings) if path.is_dir()]
    disks = {os.stat(path).st_dev: _disk(path, purpose) for path, purpose in reversed(places)}  # noqa: PTH116
    return HostFacts(tuple(_processes(proc)), tuple(disks.values()), _memory(proc), settings.groups)


def _places(settings: Settings) -> Iterator[tuple[Path, str]]:
    if _BROKER_DATA.is_dir():
        yield _BROKER_DATA, "the broker's data"
    try:
        yield default_state_dir(), "the private broker's data"
        yield place.directory_to_read(settings.monitor), "the monitor's record"
    except (ConfigError, OSError):  # there is no home directory
        pass
    if settings.logging.destination.startswith("/"):
        yield Path(settings.logging.destination).parent, "log files"
    yield Path("/var/log"), "log files"
    yield Path("/tmp"), "temporary files"  # noqa: S108 -- only looked at


def _disk(path: Path, purpose: str) -> Disk:
    found = os.statvfs(path)
    return Disk(str(path), purpose, found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize)


def _memory(proc: Path) -> int:
    text = (proc / "meminfo").read_text(encoding="ascii")
    return int(text.partition("MemTotal:")[2].split()[0]) * 1024


def _processes(proc: Path) -> Iterator[Process]:
    for entry in proc.iterdir():
        if not entry.name.isdigit():
            continue
        try:
            title = (entry / "cmdline").read_bytes().rstrip(b"\0").decode(errors="replace")
            if title.startswith(_TITLE):
                yield Process(title.removeprefix(_TITLE), resident_memory(entry.name), _open_files(entry))
        except (OSError, ValueError, IndexError):  # it has ended
            continue


def _open_files(entry: Path) -> tuple[int, int] | None:
    try:
        used = sum(1 for _ in (entry / "fd").iterdir())
        limits = (entry / "limits").read_text(encoding="ascii")
    except PermissionError:
        return None
    most = limits.partition("Max open files")[2].split()[1]  # the hard limit, to which the soft one is raised
    return (used, int(most)) if most.isdecimal() else None


# --- judging ---


def judge(facts: HostFacts) -> Iterator[Finding]:
    """Yield what is short on this host, or will be."""
    yield from _files(facts.processes)
    yield from _disks(facts.disks)
    yield from _memory_of_workers(facts)


def _finding(level: Level, name: str, text: str, advice: str) -> Finding:
    return Finding(level, "host", name, text, advice)


def _files(processes: Iterable[Process]) -> Iterator[Finding]:
    for process in processes:
        used, most = process.open_files or (0, 0)
        if used > _FULL * most:
            text = f"the {process.title} has {used} of {most} files open"
            advice = "raise LimitNOFILE in the systemd unit, or `ulimit -n` before the start"
            yield _finding(Level.WARNING, "open-files", text, advice)


def _disks(disks: Iterable[Disk]) -> Iterator[Finding]:
    for disk in disks:
        for level, least, part in _LOW:
            if disk.free < least or disk.free < part * disk.total:
                text = f"{disk.free // _MEBIBYTE} MiB are free in {disk.path}, the place of {disk.purpose}"
                yield _finding(level, "disk", text, "free disk space there")
                break


def _memory_of_workers(facts: HostFacts) -> Iterator[Finding]:
    """Yield a warning if all workers do not fit into memory: as large as they are, or as they may become."""
    largest = _largest(facts.processes)
    groups = [group for group in facts.groups if group.workers]
    consumers = _CONSUMER * len(groups)
    expected = consumers + sum(group.workers * largest.get(group.name, _WORKER) for group in groups)
    allowed = consumers + sum(
        group.workers * max(group.max_memory * _MEBIBYTE, largest.get(group.name, _WORKER))
        for group in groups
    )
    number = counted(sum(group.workers for group in groups), "worker")
    have = f"and this host has {facts.memory // _MEBIBYTE} MiB"
    if not facts.memory:
        return
    if expected > _FULL * facts.memory:
        text = f"{number} need {expected // _MEBIBYTE} MiB of memory as large as they are now, {have}"
        yield _finding(Level.WARNING, "memory", text, "lower `workers` of some groups, or set max_memory")
    elif allowed > facts.memory:
        text = f"{number} may come to {allowed // _MEBIBYTE} MiB of memory before they are replaced, {have}"
        yield _finding(Level.ADVICE, "memory-allowed", text, "lower `workers` or max_memory of some groups")


def _largest(processes: Iterable[Process]) -> dict[str, int]:
    """Return the resident memory of the largest running worker of each group."""
    found: dict[str, int] = {}
    for process in processes:
        kind, _, name = process.title.partition(" ")
        group = name.rpartition("/")[0]
        if kind == "worker" and group:
            found[group] = max(process.rss, found.get(group, 0))
    return found
