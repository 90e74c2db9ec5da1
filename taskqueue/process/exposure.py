"""Whether the users of workers can read what the wall between users is to keep from them."""

import os
import pwd
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from taskqueue.config import Settings


def warnings(settings: Settings) -> list[str]:
    """Return a warning for each file with a secret that a worker could read, where root starts the pool."""
    if os.geteuid() != 0:
        return []
    default = settings.workerpool.worker_user
    users = sorted({group.user or default for group in settings.groups if group.workers})
    readers: dict[str, list[str]] = {path: [] for path in settings.secret_files}
    for user in users:
        for path in _readable(user, settings.secret_files):
            readers[path].append(user)
    return [_warning(path, names, settings.workerpool.user) for path, names in readers.items() if names]


def _warning(path: str, names: Sequence[str], reader: str) -> str:
    who = ", ".join(names)
    return (
        f"{path} holds a secret for the broker, and workers of these users can read it: {who}; to mend it: "
        f"chown root:{reader} and chmod 640 that file, and take the users out of the group {reader}"
    )


def _readable(name: str, paths: Sequence[str]) -> list[str]:
    """Return those of the files that a user can read, by whatever gives them the right."""
    try:
        user = pwd.getpwnam(name)
    except KeyError:  # a fault of the configuration
        return []
    with _acting_as(user):
        return [path for path in paths if os.access(path, os.R_OK, effective_ids=True)]


@contextmanager
def _acting_as(user: pwd.struct_passwd) -> Iterator[None]:
    """Have the kernel take root for a user meanwhile."""
    groups, group = os.getgroups(), os.getegid()
    os.setgroups(os.getgrouplist(user.pw_name, user.pw_gid))
    os.setegid(user.pw_gid)
    os.seteuid(user.pw_uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(group)
        os.setgroups(groups)
