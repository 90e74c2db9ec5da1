"""Control groups of workers (cgroups(7), version 2): what each worker and its programs may use of the host.

A pool has its workers' control groups below its own. systemd delegates that to it (Delegate=yes in its unit);
on a host without systemd, root takes it from the root of the hierarchy.
"""

import contextlib
import ctypes
import itertools
import os
import re
import signal
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from taskqueue.errors import CgroupsUnavailable, PrivilegeError
from taskqueue.process.children import Exit

if TYPE_CHECKING:
    from taskqueue.config import GroupSettings

#: The file of a control group that each option is written to; a file's first word names its controller.
FILES: Final = {
    "memory_max": "memory.max",
    "cpu_weight": "cpu.weight",
    "cpu_max": "cpu.max",
    "tasks_max": "pids.max",
    "io_weight": "io.weight",
}

#: The directory in which the hierarchy is mounted if it is mounted nowhere.
MOUNT: Final = Path("/run/taskqueue/cgroup")

_MIB: Final = 1024 * 1024
_PERIOD: Final = 100_000  # microseconds in which a share of processor time may be used
_LEAF: Final = "supervisor"  # the control group of the pool's other processes: only leaves contain processes
_SYSTEMD: Final = Path("/run/systemd/system")  # sd_booted(3)
_DELEGATED: Final = ("user.delegate", "trusted.delegate")  # extended attributes that systemd sets
_MOVE_ATTEMPTS: Final = 10  # a process that forks meanwhile has children in the old control group
_END_TIMEOUT: Final = 2.0  # seconds that killed processes may take to leave their control groups
_END_DELAY: Final = 0.01


@dataclass(frozen=True, slots=True)
class Boundaries:
    """What a worker and the programs that it starts may use of the host; 0 is no boundary.

    Args:
        memory_max: bytes of memory.
        cpu_weight: share of processor time while it is scarce, 1 to 10000; the kernel's default is 100.
        cpu_max: processors; 0.5 is half of one processor's time.
        tasks_max: processes and threads.
        io_weight: share of disk time, 1 to 10000; the kernel's default is 100.
    """

    memory_max: int = 0
    cpu_weight: int = 0
    cpu_max: float = 0.0
    tasks_max: int = 0
    io_weight: int = 0

    @classmethod
    def of(cls, group: "GroupSettings") -> "Boundaries":
        """Return the boundaries in a group's settings."""
        return cls(**{field.name: getattr(group, field.name) for field in fields(cls)})

    @property
    def options(self) -> list[str]:
        """The options that are set."""
        return [field.name for field in fields(self) if getattr(self, field.name)]

    def contents(self) -> Iterator[tuple[str, str]]:
        """Yield files of a control group, and what to write to them."""
        for option in self.options:
            value = getattr(self, option)
            if option == "cpu_max":
                value = f"{max(1000, round(value * _PERIOD))} {_PERIOD}"  # the kernel's least is 1 ms
            yield FILES[option], str(value)
        if self.memory_max:
            yield "memory.swap.max", "0"  # memory_max bounds what the worker has, wherever it is
            yield "memory.oom.group", "1"  # the worker never goes on without one of its processes


class Cgroup:
    """The control group of one worker."""

    def __init__(self, path: Path, boundaries: Boundaries) -> None:
        self.path = path
        self.boundaries = boundaries

    def enter(self) -> None:
        """Move this process into the control group. Raises PrivilegeError: it must not run outside of it."""
        try:
            (self.path / "cgroup.procs").write_text("0")
        except OSError as error:
            raise PrivilegeError(f"cannot enter the control group {self.path}: {error.strerror}") from None

    def kill(self) -> None:
        """Kill all of its processes, in whatever session they are."""
        with contextlib.suppress(OSError):
            (self.path / "cgroup.kill").write_text("1")

    def explain(self, end: Exit) -> Exit:
        """Complete the end of the worker by what the kernel counted for it and its programs."""
        events = _counts(self.path / "memory.events")
        reason = ""
        if end.code == -signal.SIGKILL and events.get("oom_kill"):
            is_own = self.boundaries.memory_max and events.get("oom")
            most = f"memory_max is {self.boundaries.memory_max / _MIB:g} MiB"
            reason = f"out of memory, {most if is_own else 'which the host or the pool has too little of'}"
        peak = int(_text(self.path / "memory.peak") or end.peak_memory)
        return replace(end, reason=reason, peak_memory=peak)

    def remove(self) -> bool:
        """Remove the control group; return False if it still contains processes."""
        return _remove(self.path)


class Cgroups:
    """The control groups of a pool's workers."""

    def __init__(self) -> None:
        self._base: Path | None = None
        self._is_ours = False  # whether the base was made here
        self._files: frozenset[str] = frozenset()  # those that a worker's control group has
        self._numbers = itertools.count(1)
        self._ended: list[Cgroup] = []  # those with processes that are still being killed

    def plan(self, wanted: Mapping[str, Boundaries]) -> Iterator[str]:
        """Prepare for groups of workers; yield a warning for what is without effect.

        wanted -- the boundaries by the name of the group; without any, nothing is done
        """
        used = {name: each for name, each in wanted.items() if each.options}
        if not used:
            return
        reason = ""
        try:
            self._prepare({option for each in used.values() for option in each.options})
        except CgroupsUnavailable as error:
            reason = str(error)
        except OSError as error:
            reason = f"{error.filename or 'cgroup2'}: {error.strerror}"
        yield from self._warnings(used, reason)

    def _warnings(self, used: Mapping[str, Boundaries], reason: str) -> Iterator[str]:
        for option, file in FILES.items():
            names = [name for name, each in used.items() if option in each.options]
            if not names or file in self._files:
                continue
            why = reason or f"control groups here have no {file}"
            instead = "; RLIMIT_DATA limits each of their processes instead" if option == "memory_max" else ""
            yield f"option {option} of {', '.join(names)} is without effect: {why}{instead}"

    def has(self, option: str) -> bool:
        """Tell whether an option takes effect."""
        return FILES[option] in self._files

    def make(self, name: str, boundaries: Boundaries) -> Cgroup | None:
        """Make the control group of a worker; None if it needs none, or there is none to be had.

        Raises OSError if the system refuses.
        """
        if self._base is None or not boundaries.options:
            return None
        cgroup = Cgroup(self._base / f"{name.replace('/', '-')}.{next(self._numbers)}", boundaries)
        cgroup.path.mkdir()
        try:
            for file, content in boundaries.contents():
                if file in self._files:
                    (cgroup.path / file).write_text(content)
        except OSError:
            cgroup.remove()
            raise
        return cgroup

    def end(self, cgroup: Cgroup) -> None:
        """Kill what is left in the control group of a worker, and remove it as soon as possible."""
        cgroup.kill()
        if not cgroup.remove():
            self._ended.append(cgroup)

    def remove_ended(self) -> None:
        """Remove control groups whose processes have ended meanwhile."""
        if self._ended:
            self._ended = [cgroup for cgroup in self._ended if not cgroup.remove()]

    def close(self) -> None:
        """Remove all control groups that were made; their workers have ended."""
        for path in [self._base] if self._base and self._is_ours else [each.path for each in self._ended]:
            _clear(path)

    # --- the place for them ---

    def _prepare(self, options: Collection[str]) -> None:
        """Find or make the place for control groups, with the controllers that the options need."""
        base = self._base or self._find()
        controllers = {"memory", *(FILES[option].partition(".")[0] for option in options)}
        if self._is_ours:
            _enable(base.parent, controllers)
        _enable(base, controllers)
        self._files = _files_below(base)
        self._base = base

    def _find(self) -> Path:
        own = own_cgroup() or _mount()
        self._is_ours = not (own / "cgroup.type").exists()  # only the root of the hierarchy has no type
        if self._is_ours:
            return _take_from_root(own)
        _make_leaf(own)
        return own


def own_cgroup() -> Path | None:
    """Return the directory of this process's control group; None if the hierarchy is not mounted."""
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    inside = next((line[3:] for line in lines if line.startswith("0::")), "")
    return directory_of(inside, Path("/proc/self/mountinfo").read_text()) if inside else None


def directory_of(inside: str, mounts: str) -> Path | None:
    """Return the directory of a control group.

    Args:
        inside: its place in the hierarchy, as in /proc/PID/cgroup.
        mounts: the text of /proc/self/mountinfo (proc(5)).
    """
    for line in mounts.splitlines():
        about, _, filesystem = line.partition(" - ")
        if filesystem.split()[0] != "cgroup2":
            continue
        root, place = (_unescaped(field) for field in about.split()[3:5])
        if root in ("/", inside) or inside.startswith(f"{root}/"):
            return Path(place + inside.removeprefix(root.rstrip("/")).rstrip("/"))
    return None


def _unescaped(field: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), field)


def _mount() -> Path:
    """Mount the hierarchy, which is mounted nowhere; return the control group of this process."""
    if os.geteuid() != 0:
        raise CgroupsUnavailable("cgroup2 is not mounted, and only root can mount it")
    MOUNT.mkdir(mode=0o755, parents=True, exist_ok=True)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"cgroup2", os.fsencode(MOUNT), b"cgroup2", 0, None) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), "mount cgroup2")
    found = own_cgroup()
    if found is None:
        raise CgroupsUnavailable("the control group of the pool is outside of its namespace")
    return found


def _take_from_root(root: Path) -> Path:
    """Make the place for the control groups of this pool; remove those of pools that were killed."""
    namespace = Path("/proc/self/ns/pid").stat().st_ino  # process ids have a meaning in it only
    prefix = f"taskqueue.{namespace}."
    for left in root.glob(f"{prefix}*"):
        pid = left.name.removeprefix(prefix)
        if pid == str(os.getpid()) or not Path(f"/proc/{pid}").exists():
            _clear(left)
    base = root / f"{prefix}{os.getpid()}"
    base.mkdir(exist_ok=True)
    return base


def _make_leaf(own: Path) -> None:
    """Move the processes of the pool into a control group of their own, below the one that is the pool's."""
    if not _is_delegated(own) and (_SYSTEMD.is_dir() or _pids(own) != [os.getpid()]):
        what = "systemd has not delegated it" if _SYSTEMD.is_dir() else "other processes are in it"
        raise CgroupsUnavailable(
            f"the pool has no control group of its own, as {what}: {own} "
            "(start the pool by its unit, or by `systemd-run -p Delegate=yes`)"
        )
    leaf = own / _LEAF
    leaf.mkdir(exist_ok=True)
    for _ in range(_MOVE_ATTEMPTS):
        if not (pids := _pids(own)):
            return
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                (leaf / "cgroup.procs").write_text(str(pid))


def _is_delegated(path: Path) -> bool:
    for name in _DELEGATED:
        with contextlib.suppress(OSError):
            return os.getxattr(path, name) == b"1"
    return False


def _enable(path: Path, controllers: Collection[str]) -> None:
    """Enable controllers for the control groups below one, as far as they are available."""
    for name in _text(path / "cgroup.controllers").split():
        if name in controllers:
            with contextlib.suppress(OSError):
                (path / "cgroup.subtree_control").write_text(f"+{name}")


def _files_below(path: Path) -> frozenset[str]:
    """Return the names of the files that a new control group below one has."""
    probe = path / "probe"
    probe.mkdir(exist_ok=True)
    try:
        return frozenset(each.name for each in probe.iterdir())
    finally:
        _remove(probe)


def _pids(path: Path) -> list[int]:
    return [int(pid) for pid in (path / "cgroup.procs").read_text().split()]


def _text(path: Path) -> str:
    """Return the text of a file; "" if there is none."""
    try:
        return path.read_text()
    except OSError:
        return ""


def _counts(path: Path) -> dict[str, int]:
    pairs = [line.split() for line in _text(path).splitlines()]
    return {pair[0]: int(pair[1]) for pair in pairs}


def _clear(path: Path) -> None:
    """Remove a control group and those below it, and kill the processes in them; give up after some time."""
    deadline = time.monotonic() + _END_TIMEOUT
    with contextlib.suppress(OSError):
        (path / "cgroup.kill").write_text("1")
    while not _remove(path) and time.monotonic() < deadline:
        time.sleep(_END_DELAY)


def _remove(path: Path) -> bool:
    """Remove a control group and those below it; return False if there are processes left."""
    try:
        for directory, _, _ in os.walk(path, topdown=False):
            os.rmdir(directory)  # noqa: PTH106 -- as os.walk names it
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True
