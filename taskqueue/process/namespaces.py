"""Namespaces of a worker (namespaces(7)): temporary directories and a network of its own, read-only files."""

import contextlib
import ctypes
import fcntl
import os
import socket
import struct
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Final

from taskqueue.errors import PrivilegeError

if TYPE_CHECKING:
    from taskqueue.config import GroupSettings

#: Directories in which every user of a machine may write.
TEMPORARY: Final = ("/tmp", "/var/tmp", "/dev/shm")  # noqa: S108 -- covered, not used

_CLONE_NEWNS: Final = 0x00020000  # linux/sched.h
_CLONE_NEWUSER: Final = 0x10000000
_CLONE_NEWNET: Final = 0x40000000
_MS_NOSUID, _MS_NODEV, _MS_REC, _MS_SLAVE = 2, 4, 0x4000, 0x80000  # linux/mount.h
_MOUNT_SETATTR: Final = 442  # the number of the system call; glibc has had a function since 2.36
_MOUNT_ATTR_RDONLY: Final = 1
_AT_FDCWD, _AT_RECURSIVE = -100, 0x8000  # linux/fcntl.h
_PR_CAPBSET_READ, _PR_CAPBSET_DROP = 23, 24  # linux/prctl.h
_MOST_CAPABILITIES: Final = 64
_SIOCSIFFLAGS: Final = 0x8914  # netdevice(7)
_IFF_UP: Final = 1
_EVERYBODY: Final = b"0 0 4294967295\n"  # user_namespaces(7): each id is the same inside and outside

_libc: Final = ctypes.CDLL(None, use_errno=True)


class _MountAttributes(ctypes.Structure):
    """struct mount_attr of mount_setattr(2)."""

    _fields_ = [(name, ctypes.c_uint64) for name in ("attr_set", "attr_clr", "propagation", "userns_fd")]


@dataclass(frozen=True, slots=True)
class Isolation:
    """The view that a group's workers have of the machine.

    Args:
        private_tmp: whether a worker has temporary directories of its own.
        no_network: whether it has no network but a loopback interface of its own.
        read_only: whether it can write to no file system but those directories.
    """

    private_tmp: bool = False
    no_network: bool = False
    read_only: bool = False

    @classmethod
    def of(cls, group: "GroupSettings") -> "Isolation":
        """Return the isolation in a group's settings."""
        return cls(**{field.name: getattr(group, field.name) for field in fields(cls)})

    @property
    def options(self) -> list[str]:
        """The options that are set."""
        return [field.name for field in fields(self) if getattr(self, field.name)]

    def impose(self) -> None:
        """Isolate this process, which is root's; it becomes another user afterwards.

        Raises PrivilegeError if the system refuses: a worker never runs without the isolation it should have.
        """
        if not self.options:
            return
        try:
            self._leave()
            if self.no_network:
                _raise_loopback()
            if self.read_only:
                _make_read_only()
            if self.private_tmp:
                _cover_temporary()
        except OSError as error:
            advice = "remove these options, or let the pool create namespaces (docs/operations.md, Isolation)"
            what = f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror)
            raise PrivilegeError(
                f"the system does not allow {', '.join(self.options)} ({what}); {advice}"
            ) from None

    def _leave(self) -> None:
        """Enter new namespaces: directly, or without CAP_SYS_ADMIN inside a new namespace of users."""
        flags = _CLONE_NEWNET if self.no_network else 0
        if self.private_tmp or self.read_only:
            flags |= _CLONE_NEWNS
        try:
            _unshare(flags)
        except PermissionError:
            _unshare_with_users(flags)
        if flags & _CLONE_NEWNS:  # new mounts of the machine appear here, none of ours appears there
            _check(_libc.mount(None, b"/", None, _MS_REC | _MS_SLAVE, None), "mount /")


def _check(result: int, what: str) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), what)


def _unshare(flags: int) -> None:
    _check(_libc.unshare(flags), "unshare")


def _unshare_with_users(flags: int) -> None:
    """Enter namespaces by the capabilities that a process has in a namespace of users of its own.

    All ids there are those of the machine. A process outside writes the tables of the ids: only there it has
    the capabilities for it, CAP_SETUID, CAP_SETGID and, since root is among them, CAP_SETFCAP.
    """
    withheld = [
        number for number in range(_MOST_CAPABILITIES) if _libc.prctl(_PR_CAPBSET_READ, number, 0, 0, 0) == 0
    ]
    reader, writer = os.pipe()
    mapper = os.fork()
    if mapper == 0:
        _map_ids(os.getppid(), reader, writer)
    try:
        _unshare(flags | _CLONE_NEWUSER)
        os.write(writer, b"\0")
    finally:
        os.close(reader)
        os.close(writer)
        status = os.waitstatus_to_exitcode(os.waitpid(mapper, 0)[1])
    if status != 0:
        raise OSError(status, os.strerror(status), "uid_map")
    for number in withheld:  # setuid programs get no capability that they would not get outside
        _libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0)


def _map_ids(pid: int, reader: int, writer: int) -> None:
    """Write the tables of ids of a process once it is in its namespace; exit with 0 or an errno."""
    status = 0
    try:
        os.close(writer)
        if os.read(reader, 1):
            for table in ("uid_map", "gid_map"):
                Path(f"/proc/{pid}/{table}").write_bytes(_EVERYBODY)
    except OSError as error:
        status = error.errno or 1
    finally:
        os._exit(status)


def _raise_loopback() -> None:
    """Set the loopback interface up; without CAP_NET_ADMIN it stays down."""
    with socket.socket() as any_socket, contextlib.suppress(PermissionError):
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", _IFF_UP))


def _make_read_only() -> None:
    """Make all mounts read-only but /proc, in which a process changes its own properties."""
    was_writable = not os.statvfs("/proc").f_flag & os.ST_RDONLY
    _set_attributes("/", _MountAttributes(attr_set=_MOUNT_ATTR_RDONLY), _AT_RECURSIVE)
    if was_writable:
        _set_attributes("/proc", _MountAttributes(attr_clr=_MOUNT_ATTR_RDONLY))


def _set_attributes(path: str, attributes: _MountAttributes, flags: int = 0) -> None:
    size = ctypes.sizeof(attributes)
    done = _libc.syscall(
        _MOUNT_SETATTR, _AT_FDCWD, path.encode(), flags, ctypes.byref(attributes), ctypes.c_size_t(size)
    )
    _check(done, f"mount_setattr {path}")


def _cover_temporary() -> None:
    """Mount an empty file system in memory over each temporary directory; it ends with its last process."""
    for path in map(os.path.realpath, TEMPORARY):
        if Path(path).is_dir():
            mounted = _libc.mount(b"tmpfs", path.encode(), b"tmpfs", _MS_NOSUID | _MS_NODEV, b"mode=1777")
            _check(mounted, f"mount {path}")
