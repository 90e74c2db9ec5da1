"""Trial imports of plugins, each in a process of its own, under the user whom its workers run as."""

import os
import pwd
import subprocess
import sys
from typing import Any, Final

from taskqueue.errors import PrivilegeError
from taskqueue.process import privileges

_TIMEOUT: Final = 60.0  # seconds
_TRY: Final = "import sys; from taskqueue.plugins import load; load(sys.argv[1], sys.argv[2])"


def try_import(name: str, group: str, user: str | None) -> str | None:
    """Import a plugin; return the error in a line, or None.

    Args:
        name: of its entry point.
        group: its entry point group.
        user: the Unix user to import it as, if root calls this; None for the user who calls.
    """
    command = [sys.executable, "-P", "-c", _TRY, name, group]
    try:
        done = subprocess.run(
            command,
            env=_environment(user),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_TIMEOUT,
            check=False,
            **_identity(user),
        )
    except (KeyError, PrivilegeError):
        return f"not tried, as there is no user {user}, and plugin code does not run as root"
    except OSError as error:
        return f"user {user or 'you'} cannot run {sys.executable}: {error.strerror}"
    except subprocess.TimeoutExpired:
        return f"the import takes more than {_TIMEOUT:g} s"
    if done.returncode == 0:
        return None
    lines = done.stderr.decode(errors="replace").strip().splitlines()
    return lines[-1].partition(": ")[2] or lines[-1] if lines else f"exit status {done.returncode}"


def _environment(user: str | None) -> dict[str, str]:
    """Return the environment for plugin code that runs as `user`, None for the current user."""
    path = {name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ}
    return privileges.environment(user, os.environ) | path


def _identity(user: str | None) -> dict[str, Any]:
    """Return the arguments for a process that runs as `user`, without our terminal. Raises KeyError."""
    if user is None:
        return {}
    entry = pwd.getpwnam(user)
    groups = os.getgrouplist(user, entry.pw_gid)
    return {
        "user": entry.pw_uid,
        "group": entry.pw_gid,
        "extra_groups": groups,
        "cwd": "/",
        "start_new_session": True,
    }
