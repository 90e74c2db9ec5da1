"""The banner above each page: the record is behind, has gaps, or the broker is away."""

import time
from collections.abc import Sequence
from typing import Final

from taskqueue.monitor.record import EmitterRow, Gap
from taskqueue.monitor.report import STALE_AFTER, Report
from taskqueue.monitor.web.pages.showing import duration
from taskqueue.monitor.web.view import View

_LATE: Final = 60.0  # seconds from an event to the record; clocks of hosts differ by less
_RECENT: Final = 3600.0  # seconds for which a gap is mentioned


def notices(view: View) -> tuple[str, ...]:
    """Return lines for a user; one with limits learns nothing of processes and gaps."""
    now = time.time()
    found = [_of_recorder(view.report(), now)]
    if not view.rights.is_limited:
        found += [_of_delay(view.emitters(), now), _of_gaps(view.gaps(), now)]
    return tuple(each for each in found if each)


def _of_recorder(report: Report | None, now: float) -> str:
    if report is None:
        return "No recorder runs: this is the record as it was. Start `taskqueue monitor`."
    if now - report.at > STALE_AFTER:
        return f"The recorder has said nothing for {duration(now - report.at)}: this is the record as it was."
    if report.trouble:
        return f"Events are not recorded: {report.trouble}. They wait in the stream."
    if not report.is_reading:
        return "The broker is away: the record goes on when the recorder reaches it again."
    return ""


def _of_delay(rows: Sequence[EmitterRow], now: float) -> str:
    """Say that what comes now happened long ago, as after a pause of the recorder."""
    fresh = [row for row in rows if now - row.last_seen < _LATE and row.state_at is not None]
    behind = min((row.last_seen - (row.state_at or 0.0) for row in fresh), default=0.0)
    return f"The record is {duration(behind)} behind." if behind > _LATE else ""


def _of_gaps(gaps: Sequence[Gap], now: float) -> str:
    missed = sum(gap.missed for gap in gaps if now - gap.at < _RECENT)
    return f"{missed} events of the last hour are missing in the record." if missed else ""
