"""Unix users: dropping the privileges of root, and files with secrets that workers can read."""

import contextlib
import os
import pwd
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from taskqueue.errors import PrivilegeError
from taskqueue.process import children

if TYPE_CHECKING:
    from taskqueue.config import Settings

#: Variables of the pool's environment that a process under another user may see.
_PASSED_ON: Final = ("PATH", "LANG", "LANGUAGE", "TZ")
_PASSED_PREFIX: Final = "LC_"
#: Never passed on: these contain the broker's address, or give access to the service manager.
_WITHHELD: Final = (
    "TASKQUEUE_AMQP",
    "TASKQUEUE_NOTIFY",
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "JOURNAL_STREAM",
)


def become(name: str) -> None:
    """Change irrevocably from root to a Unix user. Raises PrivilegeError if any privilege of root remains.

    The order is supplementary groups, group, user: each needs what the next one takes away.
    """
    user = _find(name)
    groups = os.getgrouplist(name, user.pw_gid)
    try:
        os.setgroups(groups)
        os.setresgid(user.pw_gid, user.pw_gid, user.pw_gid)
        os.setresuid(user.pw_uid, user.pw_uid, user.pw_uid)
    except OSError as error:
        raise PrivilegeError(f"cannot become user {name!r}: {error.strerror}") from None
    _verify(user, groups)


def check_installation(name: str) -> None:
    """Raise PrivilegeError if this process, now of user `name`, cannot read taskqueue's own code."""
    if not os.access(__file__, os.R_OK):
        raise PrivilegeError(f"user {name!r} cannot read {__file__}: install taskqueue where all users can")


def _find(name: str) -> pwd.struct_passwd:
    try:
        user = pwd.getpwnam(name)
    except KeyError:
        raise PrivilegeError(f"there is no Unix user {name!r}") from None
    if user.pw_uid == 0 or user.pw_gid == 0:
        raise PrivilegeError(f"user {name!r} has root's user or group id; workers never run as root")
    return user


def _verify(user: pwd.struct_passwd, groups: list[int]) -> None:
    """Read the ids back. Raises PrivilegeError if they are not those of the user."""
    if (
        os.getresuid() != (user.pw_uid,) * 3
        or os.getresgid() != (user.pw_gid,) * 3
        or set(os.getgroups()) != set(groups)
        or 0 in os.getgroups()
    ):
        raise PrivilegeError(f"became user {user.pw_name!r}, but the kernel shows other ids")
    try:
        os.setuid(0)
    except PermissionError:
        return
    raise PrivilegeError(f"became user {user.pw_name!r}, but could become root again")


def environment(name: str | None, inherited: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a process that runs as `name`, or, for None, as the pool's own user.

    Raises PrivilegeError if there is no such user.
    """
    if name is None:
        return {key: value for key, value in inherited.items() if key not in _WITHHELD}
    user = _find(name)
    passed = {
        key: value for key, value in inherited.items() if key in _PASSED_ON or key.startswith(_PASSED_PREFIX)
    }
    return passed | {"HOME": user.pw_dir, "USER": name, "LOGNAME": name, "SHELL": "/bin/sh"}


# --- files with secrets ---


def exposure_warnings(settings: "Settings") -> list[str]:
    """Return a warning for each file with a secret that workers of a pool started by root can read."""
    if os.geteuid() != 0:
        return []
    users = worker_users(settings)
    readers: dict[str, list[str]] = {path: [] for path in settings.secret_files}
    for user in users:
        for path in readable(user, settings.secret_files):
            readers[path].append(user)
    return [_warning(path, names, settings.workerpool.user) for path, names in readers.items() if names]


def _warning(path: str, names: Sequence[str], reader: str) -> str:
    who = ", ".join(names)
    return (
        f"{path} holds a secret for the broker, and workers of these users can read it: {who}; to mend it: "
        f"chown root:{reader} and chmod 640 that file, and take the users out of the group {reader}"
    )


def worker_users(settings: "Settings") -> list[str]:
    """Return the users of workers in a pool started by root."""
    default = settings.workerpool.worker_user
    return sorted({group.user or default for group in settings.groups if group.workers})


def readable(name: str, paths: Sequence[str]) -> list[str]:
    """Return those of the files that a user can read."""
    # The check of the configuration reports a user that does not exist.
    with contextlib.suppress(PrivilegeError), acting_as(name):
        return [path for path in paths if os.access(path, os.R_OK, effective_ids=True)]
    return []


@contextlib.contextmanager
def acting_as(name: str) -> Iterator[None]:
    """Use the effective ids of a user, as root; only our own code may run meanwhile."""
    user = _find(name)
    with acting_with(user.pw_uid, user.pw_gid, os.getgrouplist(name, user.pw_gid)):
        yield


@contextlib.contextmanager
def acting_with(uid: int, gid: int, of_user: Sequence[int]) -> Iterator[None]:
    """Use these effective ids, and the groups `of_user`, as root; only our own code may run meanwhile."""
    groups, group = os.getgroups(), os.getegid()
    with children.keeping_death_with_parent():
        os.setgroups(of_user)
        os.setegid(gid)
        os.seteuid(uid)
        try:
            yield
        finally:
            os.seteuid(0)
            os.setegid(group)
            os.setgroups(groups)
