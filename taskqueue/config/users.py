"""Whether the Unix users that workers and consumers are to run as are there, and may be used."""

import os
import pwd
from collections.abc import Collection, Iterator, Mapping
from typing import Final

from taskqueue.config.checks import Complaint
from taskqueue.config.settings import GroupSettings, PoolSettings

_UNPRIVILEGED: Final = "an unprivileged user"
_NOT_THE_CONSUMERS: Final = "another user than the consumers', who know the broker's password"


class UnixUsers:
    """The users of this machine."""

    def uid(self, name: str) -> int | None:
        """Return a user's number; None if there is no user of this name."""
        try:
            return pwd.getpwnam(name).pw_uid
        except KeyError:
            return None

    def own_uid(self) -> int:
        """Return the number of the user who asks."""
        return os.geteuid()


def complaints(
    sources: Mapping[GroupSettings, str], pool: PoolSettings, users: UnixUsers, *, as_root: bool
) -> Iterator[Complaint]:
    """Yield what is wrong with the users that are named, as far as processes are to run as them.

    Args:
        sources: the groups, each with the section that its user is from.
        pool: the section [workerpool].
        users: who exists.
        as_root: whether root starts the pool; else its section is not looked at.
    """
    running = {group: section for group, section in sources.items() if group.workers}
    for group, section in running.items():
        expected = _expected_of(group.user, pool, users, as_root=as_root) if group.user else None
        if expected:
            yield Complaint(section, "user", expected, f"'{group.user}'")
    if as_root:
        yield from _pool_complaints(running, pool, users)


def _expected_of(user: str, pool: PoolSettings, users: UnixUsers, *, as_root: bool) -> str | None:
    uid = users.uid(user)
    if uid == 0:
        return _UNPRIVILEGED
    if not as_root:
        return None if uid == users.own_uid() else "a pool started by root, or no other user than its own"
    if uid is None:
        return "a Unix user that exists"
    if uid == users.uid(pool.user):
        return _NOT_THE_CONSUMERS
    return None


def _pool_complaints(
    running: Collection[GroupSettings], pool: PoolSettings, users: UnixUsers
) -> Iterator[Complaint]:
    needed = {"user": pool.user} if running else {}
    if any(group.user is None for group in running):
        needed["worker_user"] = pool.worker_user
    missing = {option: name for option, name in needed.items() if users.uid(name) is None}
    if missing:
        names = list(dict.fromkeys(missing.values()))
        commands = " && ".join(f"adduser --system --group --no-create-home {name}" for name in names)
        expected = f"Unix users that exist (to make what is missing: {commands})"
        yield Complaint("workerpool", next(iter(missing)), expected, f"no {' and no '.join(names)}")
    for option, name in needed.items():
        if users.uid(name) == 0:
            yield Complaint("workerpool", option, _UNPRIVILEGED, f"'{name}'")
    is_same = pool.worker_user == pool.user or users.uid(pool.worker_user) == users.uid(pool.user) is not None
    if "worker_user" in needed and is_same:
        yield Complaint("workerpool", "worker_user", _NOT_THE_CONSUMERS, f"'{pool.user}'")
