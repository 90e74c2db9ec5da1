"""Events on the relatives of a process, which cannot tell of themselves."""

from typing import NamedTuple


class Other(NamedTuple):
    """The state of a process of the emitter's host that emits no events: a supervisor has no connection."""

    at: float
    kind: str  # supervisor, recorder or web process
    group: str  # of a supervisor, its daemon
    pid: int
    started: float  # seconds since 1970
    state: str  # in words
    rss: int = 0  # bytes of resident memory
    cpu: float = 0.0  # seconds of processor time
    user: str = ""  # its Unix user
    version: str = ""


class Gone(NamedTuple):
    """A process of the emitter's host has ended, and perhaps could not tell so."""

    at: float
    pid: int
