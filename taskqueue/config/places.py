"""Where a user's own files are."""

import os
from pathlib import Path

from taskqueue.errors import ConfigError


def state_home(purpose: str) -> Path:
    """Return where a user's programs keep their data (XDG base directory specification).

    ConfigError, which says for what `purpose` there is no place, where the user has no home.
    """
    base = Path(os.environ.get("XDG_STATE_HOME", ""))
    if base.is_absolute():
        return base
    try:
        return Path.home() / ".local" / "state"
    except RuntimeError:  # as in a container
        found = f"neither, and user id {os.geteuid()} has no home"
        words = f"no place for {purpose}: expected XDG_STATE_HOME or HOME, found {found}"
        raise ConfigError([words]) from None
