"""A count of what runs at once that taskqueue has no part in: file locks, which end with the process."""

import fcntl
import json
from pathlib import Path
from typing import Any

from support.ground import Ground
from support.processes import run_cli

#: Runs in a worker: it takes a free file of DIRECTORY, notes its start and the file, and holds it until OPEN
#: exists, or for SECONDS. The kernel frees the file when the worker dies.
CODE = """
import fcntl, os, time
for number in range(1000):
    slot = open(f"{DIRECTORY}/{number}", "a")
    try:
        fcntl.flock(slot, fcntl.LOCK_EX | fcntl.LOCK_NB)
        break
    except BlockingIOError:
        slot.close()
with open(f"{DIRECTORY}/notes", "a") as notes:
    notes.write(f"{time.time()} {number} {WORD}\\n")
end = time.monotonic() + SECONDS
while not os.path.exists(OPEN) and time.monotonic() < end:
    time.sleep(0.005)
slot.close()
"""


class SlotFiles:
    """The slots in a directory, and the notes of the runs that took them."""

    def __init__(self, directory: Path) -> None:
        """Make the directory."""
        self.directory = directory
        self.directory.mkdir()
        self.directory.chmod(0o1777)
        self.gate = self.directory / "open"

    @property
    def notes(self) -> list[tuple[float, int, str]]:
        """The starts, in order: time, number of the slot, word."""
        path = self.directory / "notes"
        lines = path.read_text().splitlines() if path.exists() else []
        return [(float(at), int(slot), word) for at, slot, word in map(str.split, lines)]

    @property
    def begun(self) -> int:
        """The number of starts."""
        return len(self.notes)

    @property
    def is_used(self) -> bool:
        """Whether any workitem runs."""
        return any(_is_locked(path) for path in self.directory.iterdir() if path.name.isdigit())

    @property
    def most(self) -> int:
        """The highest number of workitems that ran at once."""
        return 1 + max(slot for _, slot, _ in self.notes)


class Slots(SlotFiles):
    """Workitems for the sample `evaluate`, each of which takes the first free slot while it runs."""

    def __init__(self, ground: Ground, name: str = "slots") -> None:
        super().__init__(ground.open / name)
        self.ground, self.foreign = ground, ground.foreign

    def submit(
        self, number: int, *, seconds: float = 0.0, word: str = "w", priority: int = 0, **headers: Any
    ) -> None:
        """Have workitems routed that run for so many seconds, or until `gate` exists."""
        names = {"DIRECTORY": str(self.directory), "OPEN": str(self.gate), "SECONDS": seconds, "WORD": word}
        body = f"exec({CODE!r}, {json.dumps(names)})"
        self.foreign.declare("taskqueue")
        given: dict[str, Any] = {"priority": priority} | ({"application_headers": headers} if headers else {})
        self.foreign.publish_many([body] * number, type="evaluate", content_type="text/plain", **given)


def listed(ground: Ground) -> dict[str, dict[str, Any]]:
    """Return what `taskqueue limit list` shows, by the limit's name."""
    done = run_cli("limit", "list", "--format", "json", env={"TASKQUEUE_AMQP": ground.url})
    assert done.returncode == 0, done.stderr
    return {each["name"]: each for each in json.loads(done.stdout)}


def _is_locked(path: Path) -> bool:
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def most_starts(times: list[float], period: float) -> int:
    """Return the highest number of starts within any time of a length."""
    times = sorted(times)
    return max(sum(at <= each < at + period for each in times) for at in times)
