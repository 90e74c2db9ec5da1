"""The schedules of the workload, and the workitems that their ticks must have become."""

from collections.abc import Mapping, Sequence
from typing import Any

from chaos.ends import End
from chaos.workload import TICK, Workitem

#: When each schedule is due, and the seconds between two of its ticks.
SCHEDULES = {"by-interval": ("every: 1s", 1), "by-cron": ("cron: */2 * * * * *", 2)}
SECTIONS = "".join(
    f"""
[schedule {name}]
{when}
missed: all
type: {TICK.worker_type}
body: {{"how": "{TICK.name}", "seconds": 0}}
"""
    for name, (when, _) in SCHEDULES.items()
)


def due(register: Sequence[Mapping[str, Any]], ends: Sequence[End]) -> dict[Workitem, float]:
    """Return the workitems of all ticks that were due, with their times in seconds since 1970.

    The register of schedules says how many of each were fired, and when the last one was due; the others were
    before it, as many seconds apart as the schedule says. A tick that nobody has seen has its name as its id.

    register: what `taskqueue schedule show` shows of each
    """
    ids = {end.tick: end.workitem for end in ends if end.tick}
    ticks = [(state["definition"]["name"], at) for state in register for at in _times(state)]
    return {_workitem(ids, f"{name} {at}"): float(at) for name, at in ticks}


def _times(state: Mapping[str, Any]) -> range:
    _, step = SCHEDULES[state["definition"]["name"]]
    last = int(state["fired_at"])
    return range(last - (state["fired"] - 1) * step, last + 1, step)


def _workitem(ids: Mapping[str, str], tick: str) -> Workitem:
    return Workitem(ids.get(tick, tick), TICK, "", 0.0, 0.0)
