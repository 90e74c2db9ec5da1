"""A small file in which the recorder reports on itself and the broker's queues, for readers and probes."""

import contextlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Final

_NAME: Final = "recorder.json"
#: The state of a recorder while another monitor writes the record.
STANDS_BY: Final = "stands by: another monitor records"
#: Seconds between two reports.
REPORT_DELAY: Final = 10.0
#: Seconds after which the recorder of a report counts as gone.
STALE_AFTER: Final = 45.0


@dataclass(frozen=True, slots=True)
class Report:
    """The recorder's state; times are seconds since 1970."""

    at: float
    state: str  # in words
    is_reading: bool = False  # whether the broker delivers events
    trouble: str = ""  # why nothing can be recorded now
    recorded: int = 0  # events since the recorder's start
    recorded_at: float | None = None  # when the last of them was recorded
    unreadable: int = 0  # messages since the start that are no events
    unreadable_at: float | None = None
    depths: Mapping[str, int] = field(default_factory=dict)  # ready messages by queue
    depths_at: float | None = None  # when they were asked for
    depths_until: float | None = None  # when they were answered
    consumers: Mapping[str, int] = field(default_factory=dict)  # of those queues; asked for together
    management: Mapping[str, Any] = field(default_factory=dict)  # what management.Management has found
    management_trouble: str = ""  # why it lacks something
    is_management_asked: bool = False
    broker: str = ""  # its name, version and cluster, and the host; "" without a connection


def write_report(directory: Path, report: Report) -> None:
    """Replace the report in the record's directory. Raises OSError."""
    new = directory / f"{_NAME}.new"
    new.write_text(json.dumps(asdict(report)), encoding="utf-8")
    new.rename(directory / _NAME)


def read_report(directory: Path) -> Report | None:
    """Return the report in the record's directory, or None: there is none, or it is of another version.

    Raises OSError if the file cannot be read.
    """
    try:
        found: Any = json.loads((directory / _NAME).read_text(encoding="utf-8"))
        known = {each.name for each in fields(Report)}
        return Report(**{name: value for name, value in found.items() if name in known})
    except (FileNotFoundError, ValueError, TypeError, AttributeError):
        return None


def remove_report(directory: Path) -> None:
    """Remove the report: the recorder ends."""
    with contextlib.suppress(OSError):
        (directory / _NAME).unlink()
