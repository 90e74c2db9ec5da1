"""The control key: it signs the commands of administrators, and is the same on all hosts."""

import os
import pwd
import re
import secrets
import stat
from pathlib import Path
from typing import Final

from taskqueue.address import SYSTEM_CONFIG
from taskqueue.config import Fault, PoolSettings, Settings
from taskqueue.errors import ConfigError
from taskqueue.process import privileges
from taskqueue.process.startup import state_of_up

#: The name of the file beside the configuration file, unless the option control_key names another one.
NAME: Final = "control.key"

#: Where the pool of the system's configuration has its socket.
SYSTEM_SOCKET: Final = "/run/taskqueue/workerpool.socket"

_KEY: Final = re.compile(rb"[A-Za-z0-9_-]{43,256}")  # 32 bytes in base64, or more
_LONGEST: Final = 1024  # bytes of the file
_OTHERS: Final = stat.S_IRWXO


def place_of(config: str | None, pool: PoolSettings) -> Path | None:
    """Return the place of the key file, whether there is one or not; None for a user without a home.

    Without a configuration file, it is that of `taskqueue up`.

    config -- the path of the configuration file
    pool -- its section [workerpool]
    """
    if pool.control_key is not None:
        return Path(pool.control_key)
    if config is not None:
        return Path(config).with_name(NAME)
    try:
        return state_of_up("the control key") / NAME
    except ConfigError:
        return None


def find(config: str | None, pool: PoolSettings) -> Path | None:
    """Return the place of the key file if one is named or is there, else None. See `place_of`."""
    place = place_of(config, pool)
    return place if place is not None and (pool.control_key is not None or os.path.lexists(place)) else None


def socket_of(config: str | None, pool: PoolSettings) -> Path | None:
    """Return the socket on which root commands a pool without a key, or None; see `place_of`."""
    default = SYSTEM_SOCKET if config == SYSTEM_CONFIG else None
    found = pool.control_socket or default
    return Path(found) if found else None


def read(path: Path) -> bytes:
    """Return the key in a file.

    Raises ConfigError if it cannot be read, is no key, or may be read by every user of the machine.
    """
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            found = file.read(_LONGEST + 1).strip()
    except OSError as error:
        raise _fault(path, "a readable file", str(error.strerror)) from None
    if mode & _OTHERS:
        advice = "chmod o= that file, and make a new key: others may have read this one"
        raise _fault(path, "a file that other users cannot read", f"mode {stat.S_IMODE(mode):04o}", advice)
    if not _KEY.fullmatch(found):
        raise _fault(path, "a line of 43 or more of letters, digits, - and _", "another content")
    return found


def places(config: str | None, settings: Settings) -> tuple[Path, ...]:
    """Return the places of the keys of pool and monitor, each once; config -- the configuration file."""
    pool, monitor = find(config, settings.workerpool), settings.monitor.control_key
    found = (pool, None if monitor is None else Path(monitor))
    return tuple(dict.fromkeys(each for each in found if each is not None))


def exposure_warnings(config: str | None, settings: Settings) -> list[str]:
    """Return, for root, a warning of each key that workers or the monitor's web process can read.

    They could give commands.

    config -- the path of the configuration file
    """
    if os.geteuid() != 0:
        return []
    web = [settings.monitor.user] if settings.monitor.control_key is not None else []
    readers = (
        ("workers of these users", privileges.worker_users(settings)),
        ("the monitor's web process", web),
    )
    found = [
        (place, who, [user for user in users if privileges.readable(user, [str(place)])])
        for place in places(config, settings)
        for who, users in readers
    ]
    return [
        f"{place} is the control key, and {who} can read it: {', '.join(names)}; to mend it: "
        f"chown {settings.workerpool.user} and chmod 400 that file, make a new key, and copy it to all hosts"
        for place, who, names in found
        if names
    ]


def make(path: Path, owner: str) -> None:
    """Write a new key to a file that only its owner can read.

    owner -- the user who gets the file if root makes it

    Raises ConfigError if the file exists or cannot be made.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400)
        with os.fdopen(descriptor, "w") as file:
            if os.geteuid() == 0:  # by the file: its owner may put another one in its place
                os.fchown(descriptor, pwd.getpwnam(owner).pw_uid, -1)
            file.write(f"{secrets.token_urlsafe(32)}\n")
    except FileExistsError:
        advice = "remove it first if the key is to change, then copy the new one to all hosts"
        raise _fault(path, "no such file", "one", advice) from None
    except OSError as error:
        raise _fault(path, "a file that can be made", str(error.strerror)) from None
    except LookupError:
        path.unlink()
        raise _fault(path, f"a Unix user {owner!r} who gets it", "none of that name") from None


def make_own(pool: PoolSettings) -> None:
    """Make the key of `taskqueue up` without a configuration file, unless it is there.

    pool -- the section [workerpool] that is in effect

    Raises ConfigError if it cannot be made, or if its user cannot read it.
    """
    place = state_of_up("the control key") / NAME
    if not place.exists():
        make(place, pool.user)
    if os.geteuid() == 0 and not privileges.readable(pool.user, [str(place)]):
        place.unlink()
        raise _fault(place, f"a directory that {pool.user} can enter", "another one")


def _fault(path: Path, expected: str, found: str, advice: str = "") -> ConfigError:
    return ConfigError([Fault(str(path), None, None, expected, found, advice)])
