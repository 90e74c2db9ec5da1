"""What is seen on the lines: which workitem was in whose hands, and when."""

import re
import time
from collections import defaultdict

#: A workitem's id, wherever it stands in a message; workload.py makes such ones.
ID = re.compile(rb"<\d+-[a-z-]+>")
LONGEST_ID = 40  # bytes


class Tap:
    """Notes which workitems pass over a line, to a service and from it; a moment is seconds since 1970."""

    def __init__(self) -> None:
        """Have seen nothing yet."""
        self.came: dict[str, list[float]] = defaultdict(list)  # delivered to the service
        self.went: dict[str, list[float]] = defaultdict(list)  # published by it

    def __call__(self, is_from_service: bool, data: bytes) -> bytes:  # noqa: FBT001 -- what a proxy calls
        """Take in what passes; return its end, where an id may have begun."""
        seen, now, end = self.went if is_from_service else self.came, time.time(), 0
        for found in ID.finditer(data):
            end = found.end()
            seen[found[0].decode()].append(now)
        return data[end:][-LONGEST_ID:]

    def spans(self, workitem: str, longest: float) -> list[tuple[float, float]]:
        """Return from when to when the service had a workitem, as far as can be seen from outside.

        It has it from the delivery until it publishes what became of it; at most `longest` seconds, for it
        may also have given it back, or have known before that it is done.
        """
        went = self.went.get(workitem, ())
        return [
            (came, min([came + longest, *(moment for moment in went if moment >= came)]))
            for came in self.came.get(workitem, ())
        ]
