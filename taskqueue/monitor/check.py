"""A probe of the monitor for Nagios and its like: a line, and an exit status. It reads one small file."""

import time
from pathlib import Path
from typing import Final, NamedTuple

from taskqueue.monitor.place import as_owner
from taskqueue.monitor.report import STALE_AFTER, STANDS_BY, Report, read_report

_OK, _WARNING, _CRITICAL = 0, 1, 2
_WORDS: Final = ("OK", "WARNING", "CRITICAL")
_RECENT: Final = 3600.0  # seconds that unreadable messages are warned of


class Finding(NamedTuple):
    """The result of a probe."""

    status: int  # the exit status: 0 OK, 1 warning, 2 critical
    text: str

    def __str__(self) -> str:
        return f"MONITOR {_WORDS[self.status]}: {self.text}"


def check(directory: Path) -> Finding:
    """Probe the monitor that records into a directory."""
    try:
        with as_owner(directory):
            report = read_report(directory)
    except OSError as error:
        return Finding(_CRITICAL, f"{error.filename or directory}: {error.strerror}")
    if report is None:
        return Finding(_CRITICAL, f"no monitor records into {directory}")
    return _judge(report, time.time())


def _judge(report: Report, now: float) -> Finding:
    age = now - report.at
    if age > STALE_AFTER:
        return Finding(_CRITICAL, f"the recorder has said nothing for {age:.0f} s; last: {report.state}")
    if report.state == STANDS_BY:
        return Finding(_OK, report.state)
    if report.trouble or not report.is_reading:
        return Finding(_CRITICAL, report.state)
    if report.unreadable_at is not None and now - report.unreadable_at < _RECENT:
        return Finding(
            _WARNING,
            f"{report.unreadable} messages on taskqueue_events were no events; see the log",
        )
    waiting = sum(number for queue, number in report.depths.items() if queue.startswith("worker_"))
    return Finding(_OK, f"{report.recorded} events recorded since its start, {waiting} workitems waiting")
