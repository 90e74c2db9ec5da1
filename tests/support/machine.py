"""A machine of our own: a Debian tree with process 1, network, host name and mounts of its own."""

import shutil
import socket
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Final

import pytest
from support.debian import Chroot
from support.processes import children, command, kill, name, pids
from support.waiting import wait_until

# What is unshared; --cgroup is for systemd.
_WALLS: Final = ("--mount", "--net", "--uts", "--ipc", "--pid", "--cgroup")

# RabbitMQ's, which a machine without a network of its own shares with this one.
_PORTS: Final = (5672, 25672)

# Process 1 must reap whoever loses his parent; ignoring SIGCHLD does that, and a shell cannot ignore it.
_IDLE: Final = """
mount --move . /
exec chroot . perl -e '$SIG{CHLD} = "IGNORE"; sleep'
"""

# systemd in a container, as its own documentation of the "container interface" describes one.
_SYSTEMD: Final = """
mount -t tmpfs tmpfs run
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount --move . /
exec setpriv --bounding-set=-sys_time,-sys_module,-sys_boot,-syslog,-audit_control \
    chroot . env -i container=other PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd >/dev/null 2>&1
"""

# The tree becomes the root of all mounts: a unit's sandbox cannot be made below a mere chroot.
_MOUNTS: Final = """
mount --bind "$1" "$1"
cd "$1"
mount -t proc proc proc
mount -t tmpfs -o mode=755 tmpfs dev
for device in null zero full random urandom tty; do
    : >"dev/$device"
    mount --bind "/dev/$device" "dev/$device"
done
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
mount -t tmpfs tmpfs dev/shm
hostname "$2"
ip link set lo up
"""


@cache
def namespaces_refused() -> str:
    """Return why this machine can hold no others; "" if it can."""
    tried = subprocess.run(
        ["unshare", *_WALLS, "--fork", "mount", "-t", "tmpfs", "tmpfs", "/mnt"],
        capture_output=True,
        text=True,
        check=False,
    )
    return tried.stderr.strip()


class Machine(Chroot):
    """A tree that runs, until it is stopped; the tree goes with it."""

    def __init__(self, source: Path, name: str) -> None:
        """Copy a tree, and give it a name; nothing runs yet."""
        super().__init__(Path(tempfile.mkdtemp(prefix=f"tq-{name}-", dir="/var/tmp")))
        self.name = name
        self.pid = 0  # of its process 1
        self._unshare: subprocess.Popen[bytes] | None = None
        subprocess.run(["cp", "-a", f"{source}/.", self.tree], check=True)
        (self.tree / "etc/hostname").write_text(f"{name}\n")
        self.knows({})
        # There is no init that would say what may be started: everything may.
        policy = self.tree / "usr/sbin/policy-rc.d"
        policy.write_text("#!/bin/sh\nexit 0\n")
        policy.chmod(0o755)

    def knows(self, hosts: dict[str, str]) -> None:
        """Have the machine know other hosts: names and addresses."""
        lines = ["127.0.0.1 localhost", f"127.0.1.1 {self.name}", "::1 localhost"]
        lines += [f"{address} {name}" for name, address in hosts.items()]
        (self.tree / "etc/hosts").write_text("\n".join(lines) + "\n")

    def start(self, *, systemd: bool = False) -> None:
        """Start process 1: systemd, or one that does nothing; where namespaces are refused, nothing."""
        if refused := namespaces_refused():
            assert not systemd
            self._go_without_walls(refused)
            return
        script = "set -e\n" + _MOUNTS + (_SYSTEMD if systemd else _IDLE)
        walls = ["unshare", *_WALLS, "--fork", "--kill-child"]
        words = [*walls, "sh", "-c", script, "sh", self.tree, self.name]
        self._unshare = subprocess.Popen([*(self._into_own_cgroup() if systemd else []), *words])
        [self.pid] = wait_until(lambda: children(self._unshare.pid), what="process 1")
        wait_until(self._has_begun, what="the machine's start")
        if systemd:
            (self.tree / "usr/sbin/policy-rc.d").unlink()
            wait_until(self._has_booted, 60, lambda: self.run("systemctl", "list-jobs", status=None).stdout)

    def _go_without_walls(self, refused: str) -> None:
        """Have a mere chroot on this machine's network, if nobody here listens where its broker will."""
        print(f"no namespaces, and so a mere chroot: {refused}")
        self.knows({socket.gethostname(): "127.0.1.1"})
        for port in _PORTS:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    pytest.skip(f"no namespaces ({refused}), and something listens on port {port}")
        proc = self.tree / "proc"
        mounted = subprocess.run(
            ["mount", "-t", "proc", "proc", proc], capture_output=True, text=True, check=False
        )
        if mounted.returncode != 0:
            pytest.skip(f"neither namespaces ({refused}) nor mounts ({mounted.stderr.strip()})")

    def _into_own_cgroup(self) -> list[str]:
        """Make control groups for this machine; return the words that lead a command into them."""
        groups = [hierarchy / self.tree.name for hierarchy in _hierarchies()]
        for group in groups:
            group.mkdir()
        enter = "".join(f"echo $$ >{group}/cgroup.procs; " for group in groups)
        return ["sh", "-ec", enter + 'exec "$@"', "sh"]

    def _has_begun(self) -> bool:
        assert self._unshare is not None
        assert self._unshare.poll() is None, "process 1 could not be started"
        return Path(f"/proc/{self.pid}/exe").readlink().name in ("perl", "systemd")

    def _has_booted(self) -> bool:
        state = self.run("systemctl", "is-system-running", status=None).stdout.strip()
        return state in ("running", "degraded")

    def enter(self) -> list[str]:
        """Return the words that lead a command into the machine."""
        return ["nsenter", f"--target={self.pid}", "--all", "--root", "--wd"] if self.pid else super().enter()

    def cut_power(self) -> None:
        """End everything on the machine at once."""
        if self._unshare is not None:
            kill(self.pid)  # and the kernel kills all the others
            self._unshare.wait()
            self._unshare, self.pid = None, 0
        elif (self.tree / "proc/self").exists():
            for pid in self.processes(""):
                kill(pid)
            wait_until(lambda: not self.processes(""), what="the end of all processes")
            subprocess.run(["umount", self.tree / "proc"], check=True)

    def remove(self) -> None:
        """End everything and remove the tree."""
        self.cut_power()
        shutil.rmtree(self.tree, ignore_errors=True)  # it may have gone elsewhere
        for hierarchy in _hierarchies():
            groups = [path.parent for path in (hierarchy / self.tree.name).rglob("cgroup.procs")]
            for group in sorted(groups, reverse=True):  # the inner ones first
                group.rmdir()

    def processes(self, pattern: str) -> dict[int, str]:
        """Return the machine's processes with this in name or command line: ids here, and both."""
        found = {pid: f"{name(pid)} {command(pid)}" for pid in pids() if self._is_here(pid)}
        return {pid: words for pid, words in found.items() if pattern in words}

    def _is_here(self, pid: int) -> bool:
        try:
            if self.pid:
                return Path(f"/proc/{pid}/ns/pid").readlink() == Path(f"/proc/{self.pid}/ns/pid").readlink()
            return Path(f"/proc/{pid}/root").readlink() == self.tree
        except OSError:  # it has just ended
            return False


def _hierarchies() -> list[Path]:
    """Return the hierarchies of control groups that systemd needs a group of its own in."""
    root = Path("/sys/fs/cgroup")
    return [path for path in (root / "unified", root / "systemd") if path.exists()] or [root]
