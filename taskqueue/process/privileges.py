"""Giving up root for good: to the consumer's user, or to a group's."""

import os
import pwd
from collections.abc import Mapping
from typing import Final

from taskqueue.errors import PrivilegeError

#: Variables of the pool's environment that a process under another user may see.
_PASSED_ON: Final = ("PATH", "LANG", "LANGUAGE", "TZ")
_PASSED_PREFIX: Final = "LC_"
#: Never passed on, whoever the user is: it may hold the broker's address, or speak for the daemon.
_WITHHELD: Final = (
    "TASKQUEUE_AMQP",
    "TASKQUEUE_NOTIFY",
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "JOURNAL_STREAM",
)


def become(name: str) -> None:
    """Become a Unix user, irrevocably; root only. PrivilegeError where anything of root's would remain.

    The order is supplementary groups, group, user: each needs what the next one takes away.
    """
    user = _find(name)
    if user.pw_uid == 0 or user.pw_gid == 0:
        raise PrivilegeError(f"user {name!r} has root's user or group id; workers never run as root")
    groups = os.getgrouplist(name, user.pw_gid)
    try:
        os.setgroups(groups)
        os.setresgid(user.pw_gid, user.pw_gid, user.pw_gid)
        os.setresuid(user.pw_uid, user.pw_uid, user.pw_uid)
    except OSError as error:
        raise PrivilegeError(f"cannot become user {name!r}: {error.strerror}") from None
    _verify(user, groups)


def check_installation(name: str) -> None:
    """Raise PrivilegeError where the user, whom we have become, cannot read taskqueue's own code."""
    if not os.access(__file__, os.R_OK):
        raise PrivilegeError(f"user {name!r} cannot read {__file__}: install taskqueue where everybody can")


def _find(name: str) -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(name)
    except KeyError:
        raise PrivilegeError(f"there is no Unix user {name!r}") from None


def _verify(user: pwd.struct_passwd, groups: list[int]) -> None:
    """Read the ids back; a process that is not who it should be must not go on."""
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
    """Return the environment of a process that runs as `name`, or, for None, as whoever started the pool.

    PrivilegeError where there is no such user.
    """
    if name is None:
        return {key: value for key, value in inherited.items() if key not in _WITHHELD}
    user = _find(name)
    passed = {
        key: value for key, value in inherited.items() if key in _PASSED_ON or key.startswith(_PASSED_PREFIX)
    }
    return passed | {"HOME": user.pw_dir, "USER": name, "LOGNAME": name, "SHELL": "/bin/sh"}
