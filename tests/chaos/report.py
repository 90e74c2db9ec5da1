"""The findings of a run, as a table for people and as JSON for programs."""

import os
import platform
from collections import Counter
from typing import Any

from rich.console import Group
from rich.table import Table
from support.foreign import Foreign

from chaos.account import Account
from chaos.faults import Hit
from chaos.story import FORGOTTEN
from chaos.workload import LIMIT

MOST_SHOWN = 20  # complaints of a kind
#: Seconds: so many of the ends that a kill of the broker doubled had been there for no longer.
AGES = (0.0, 0.5, 1.5, FORGOTTEN)


def report(account: Account, hits: list[Hit], seed: int, seconds: float, foreign: Foreign) -> dict[str, Any]:
    """Return everything worth keeping of a run, as JSON has it."""
    return {
        "seed": seed,
        "machine": f"{os.cpu_count()} cores, {platform.freedesktop_os_release()['PRETTY_NAME']}, "
        f"RabbitMQ {foreign.server_version()}, Python {platform.python_version()}",
        "seconds": round(seconds),
        "workitems": sum(sum(states.values()) for states in account.states.values()) + len(account.lost),
        "faults": len(hits),
        "at_once": account.at_once,
        "workflows": account.workflows,
        "steps": {str(runs): number for runs, number in sorted(account.steps.items())},
        "commands": account.commands,
        "states": {kind: dict(states) for kind, states in account.states.items()},
        "lost": account.lost,
        "wrong": account.wrong,
        "exposed": account.exposed,
        "doubled": len(account.doubled),
        "forgotten": {f"{bound:g}": sum(age <= bound for age in account.forgotten) for bound in AGES},
        "forgotten_longest": round(max(account.forgotten, default=0.0), 2),
        "unexplained": account.unexplained,
        "record": account.record,
        "faults_by_kind": dict(Counter(hit.kind for hit in hits)),
        "doubled_by_cause": dict(Counter(account.doubled.values())),
    }


def tables(content: dict[str, Any]) -> Group:
    """Return a report as tables."""
    return Group(_workitems(content), _faults(content), *_complaints(content))


def _workitems(content: dict[str, Any]) -> Table:
    table = Table("workitems", title=f"seed {content['seed']}, {content['seconds']} s, {content['machine']}")
    states = ("succeeded", "failed", "rejected")
    for name in states:
        table.add_column(name, justify="right")
    for kind, found in content["states"].items():
        table.add_row(kind, *(str(found.get(state, "")) for state in states))
    return table


def _faults(content: dict[str, Any]) -> Table:
    table = Table("faults", show_footer=True)
    table.columns[0].footer = "all"
    table.add_column("number", str(content["faults"]), justify="right")
    table.add_column("doubled", str(content["doubled"]), justify="right")
    causes = content["doubled_by_cause"]
    for kind in sorted(content["faults_by_kind"] | causes):
        table.add_row(
            kind or "unexplained", str(content["faults_by_kind"].get(kind, "")), str(causes.get(kind, 0))
        )
    return table


def _complaints(content: dict[str, Any]) -> list[str]:
    line = f"lost {len(content['lost'])} of {content['workitems']}, wrong {len(content['wrong'])}, "
    line += f"doubled {content['doubled']} of {content['exposed']} that a fault found in somebody's hands, "
    lines = [line + f"unexplained {len(content['unexplained'])}"]
    ages = ", ".join(f"{bound} s {number}" for bound, number in content["forgotten"].items())
    longest = content["forgotten_longest"]
    lines += [
        f"ends doubled by a kill of the broker, there no longer before than {ages}; the longest {longest} s"
    ]
    lines += [
        f"at most {content['at_once']} limited workitems at once, of {LIMIT}; after the faults so many again"
    ]
    runs = ", ".join(f"{runs}: {number}" for runs, number in content["steps"].items())
    lines += [f"{content['workflows']} workflows; steps by the number of their runs: {runs}"]
    commands = content["commands"]
    lines += [f"{commands['given']} commands to pools, {commands['obeyed']} obeyed by all hosts at once"]
    lines += [f"the record of the monitor differs in {len(content['record'])}"]
    for word in ("lost", "wrong", "unexplained", "record"):
        lines += [f"{word}: {each}" for each in content[word][:MOST_SHOWN]]
    return lines
