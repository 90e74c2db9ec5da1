"""The memory and processor time of a process as the kernel counts them, and Python's search for garbage."""

import gc
import os
from typing import Final

_PAGE: Final = os.sysconf("SC_PAGE_SIZE")  # bytes

_TICKS: Final = os.sysconf("SC_CLK_TCK")  # a second
_MANY: Final = 100_000  # objects


def collect_rarely() -> None:
    """Look for cyclic garbage only after so many new objects that a batch of work does not come to them.

    The collector is for cycles alone. As it traverses new objects, it takes an eighth of the time of a
    process that makes thousands of objects and frees them together.
    """
    gc.set_threshold(_MANY)


def resident_memory(pid: int | str = "self") -> int:
    """Return the resident memory of a process in bytes (proc(5), statm). Raises OSError if it is gone."""
    with open(f"/proc/{pid}/statm", "rb") as statm:  # noqa: PTH123 -- read every few seconds
        return int(statm.read().split()[1]) * _PAGE


def memory_of(pid: int) -> int:
    """Return the resident memory of a process in bytes; 0 if it has just ended, or the system hides it."""
    try:
        return resident_memory(pid)
    except OSError:
        return 0


def processor_time(pid: int) -> float:
    """Return the seconds of processor time of a process (proc(5), stat); 0 if it has just ended."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:  # noqa: PTH123 -- read every second
            fields = stat.read().rpartition(b")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICKS
