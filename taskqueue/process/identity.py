"""Processes of this machine by a name that no later process has: number and start (proc(5))."""

import os
from functools import cache
from pathlib import Path
from typing import Final

_ENDED: Final = (b"Z", b"X")  # states of a process whose threads have all ended


@cache
def machine() -> str:
    """Return the name of what process ids have a meaning in: this boot, and this namespace of processes."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot} {os.stat('/proc/self/ns/pid').st_ino}"  # noqa: PTH116 -- a link to no path


def process(pid: int) -> str:
    """Return the name of a process; "" if there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b") ")[2].split()  # without the first two
    except OSError:
        return ""
    return "" if fields[0] in _ENDED else f"{pid} {int(fields[22 - 3])}"


def is_dead(where: str, name: str) -> bool:
    """Tell whether a process is known to have ended; of another machine's, nothing is known.

    where -- as `machine` returned it there
    name -- as `process` returned it
    """
    pid = name.partition(" ")[0]
    if where != machine() or not pid.isdigit():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except OSError:  # another user's, of which /proc may hide everything
        return process(int(pid)) not in ("", name)
    return process(int(pid)) != name
