"""Files with secrets: who can read and change them."""

import grp
import os
import pwd
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from taskqueue import config
from taskqueue.config import Fault, Settings
from taskqueue.control import key
from taskqueue.doctor.finding import Finding, Level
from taskqueue.errors import ConfigError, PrivilegeError
from taskqueue.process import privileges
from taskqueue.process.relatives import user_name

_MOST_NAMES: Final = 5


@dataclass(frozen=True, slots=True)
class FileFacts:
    """A file that the daemons read.

    Args:
        path: its path.
        mode: its permission bits.
        owner: the name of its owner.
        members: the users in its group who are neither its owner nor a daemon's, if the group may read it.
        is_secret: whether it holds a password or a key.
        is_config: whether it is the configuration, which tells what root's daemons run.
    """

    path: str
    mode: int
    owner: str
    members: tuple[str, ...] = ()
    is_secret: bool = True
    is_config: bool = False


def collect(settings: Settings) -> Iterator[FileFacts]:
    """Yield the configuration file and the files with secrets that it names."""
    paths = [] if settings.path is None else [settings.path]
    secret = {*settings.secret_files, *(path for path in paths if is_public_secret(settings))}
    for path in dict.fromkeys((*paths, *settings.secret_files)):
        try:
            found = Path(path).stat()
        except OSError:  # the configuration's check has told of it
            continue
        mode, owner = stat.S_IMODE(found.st_mode), user_name(found.st_uid)
        members = (
            _members(found.st_gid, {owner, "root", settings.workerpool.user}) if mode & stat.S_IRGRP else ()
        )
        yield FileFacts(path, mode, owner, tuple(members), path in secret, path == settings.path)


def with_control_key(settings: Settings) -> Settings:
    """Return the settings with the control keys of pool and monitor among the files with secrets."""
    keys = map(str, key.places(settings.path, settings))
    return replace(settings, secret_files=(*settings.secret_files, *keys))


def judge_key(settings: Settings) -> Iterator[Finding]:
    """Yield what is wrong with a control key, if this user can look at it."""
    for place in key.places(settings.path, settings):
        if os.geteuid() != 0 and not os.access(place, os.R_OK):
            continue
        try:
            key.read(place)
        except ConfigError as error:
            for fault in error.faults:
                advice = "mend the file, or make a new key with `taskqueue control key`, and reload the pool"
                yield _finding(Level.ERROR, "control-key", str(fault), advice)


def is_public_secret(settings: Settings) -> bool:
    """Whether the configuration file holds a password that all users of this machine can read."""
    return any(map(is_about_secret, settings.warnings))


def is_about_secret(warning: str) -> bool:
    """Whether a warning of the configuration says that all users can read a password, as `judge` does."""
    return "can read the password" in warning


def _members(group: int, others: set[str]) -> list[str]:
    """Return the users of a group: those that it lists, and those whose own group it is."""
    try:
        listed = grp.getgrgid(group).gr_mem
    except KeyError:  # it has no name
        listed = []
    own = [entry.pw_name for entry in pwd.getpwall() if entry.pw_gid == group]
    return sorted({*listed, *own} - others)


def judge(facts: Iterable[FileFacts], caller: str) -> Iterator[Finding]:
    """Yield files that the wrong users can read or change.

    caller -- the name of the user who calls, who may own them beside root
    """
    for each in facts:
        yield from _changeable(each, caller)
        if each.is_secret:
            yield from _readable(each)


def _finding(level: Level, name: str, text: str, advice: str) -> Finding:
    return Finding(level, "host", name, text, advice)


def _changeable(facts: FileFacts, caller: str) -> Iterator[Finding]:
    if facts.mode & stat.S_IWOTH:
        text, advice = f"every user of this machine can change {facts.path}", f"chmod o-w {facts.path}"
        yield _finding(Level.ERROR, "file-writable", text, advice)
    if facts.is_config and facts.owner not in ("root", caller):
        text = f"{facts.path} belongs to user {facts.owner}, who can change it"
        yield _finding(Level.WARNING, "file-owner", text, f"chown root {facts.path}")


def _readable(facts: FileFacts) -> Iterator[Finding]:
    if facts.mode & stat.S_IROTH:
        text = f"every user of this machine can read the secret in {facts.path}"
        yield _finding(Level.ERROR, "secret-public", text, f"chmod o-r {facts.path}, and change the secret")
    elif facts.members:
        more = len(facts.members) - _MOST_NAMES
        names = ", ".join(facts.members[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")
        text = f"users of its group can read the secret in {facts.path}: {names}"
        yield _finding(
            Level.ADVICE, "secret-group", text, "take users out of the group who need not submit with it"
        )


def judge_exposure(settings: Settings) -> Iterator[Finding]:
    """Yield, for root, secrets that workers can read, and files that the daemons cannot."""
    exposed = privileges.exposure_warnings(settings), key.exposure_warnings(settings.path, settings)
    for warning in (each for warnings in exposed for each in warnings):
        text, _, advice = warning.partition("; to mend it: ")
        yield _finding(Level.ERROR, "secret-of-workers", text, advice)
    if os.geteuid() == 0:
        for fault in unreadable(settings):
            text, _, advice = fault.partition("; to mend it: ")
            yield _finding(
                Level.ERROR, "daemon-cannot-read", text, advice or "make the user, or correct the option"
            )


def unreadable(settings: Settings) -> list[str]:
    """Return, for root, a line about each file of the configuration that the daemons' user cannot read."""
    user = settings.workerpool.user
    try:
        with privileges.acting_as(user):
            config.load(settings.path, (), as_root=False)
    except PrivilegeError as error:
        return [f"the daemons cannot run as user '{user}': {error}"]
    except ConfigError as error:
        mend = f"to mend it: chgrp {user} and chmod g+r that file, chmod o+x its folders"
        faults = [replace(each, advice=mend) if isinstance(each, Fault) else each for each in error.faults]
        return [f"the daemons run as user '{user}': {fault}" for fault in faults]
    return []
