"""What came out, as a table for people and as JSON for programs."""

import json
import os
import platform
import subprocess
import time
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from rich.table import Table

from benchmarks.findings import Finding, Goal

_PACKAGES: Final = ("pika", "celery", "dramatiq", "taskiq", "taskiq-aio-pika", "huey", "rq", "redis")


def table(findings: Sequence[Finding]) -> Table:
    """Return the table: figures, ratios, and the goal beside each."""
    found = Table(title="taskqueue beside its limit and its peers, one machine, one run")
    for column, justify in (("measure", "left"), ("taskqueue", "right"), ("limit", "right")):
        found.add_column(column, justify=justify)  # type: ignore[arg-type]
    for column in ("best peer", "ratio", "goal", ""):
        found.add_column(column)
    for finding in findings:
        found.add_row(*_cells(finding))
    return found


def _cells(finding: Finding) -> tuple[str, ...]:
    ratios = "\n".join(ratio(goal) for goal in finding.goals)
    goals = "\n".join(goal.text for goal in finding.goals)
    marks = "\n".join("[green]met[/]" if goal.met else "[red]not met[/]" for goal in finding.goals)
    limit = shown(finding.limit) if finding.limit is not None else ""
    return (
        finding.measure,
        f"{shown(finding.ours)} {finding.unit}",
        limit,
        best(finding),
        ratios,
        goals,
        marks,
    )


def ratio(goal: Goal) -> str:
    """Return what a goal's figure is, and what bare pika's is where the goal is not met."""
    if goal.met or goal.limit is None:
        return shown(goal.value)
    return f"{shown(goal.value)} (bare: {shown(goal.limit)})"


def best(finding: Finding) -> str:
    """Return the best peer of a row, as figure and name."""
    if not finding.peers:
        return ""
    better = min if finding.unit in ("ms", "s", "MiB") else max
    name = better(finding.peers, key=lambda peer: finding.peers[peer])
    return f"{shown(finding.peers[name])} {name}"


def shown(figure: float) -> str:
    """Return a figure with as many digits as mean something."""
    return f"{figure:,.0f}" if figure >= 100 else f"{figure:.2f}" if figure < 10 else f"{figure:.1f}"


def markdown(findings: Sequence[Finding]) -> str:
    """Return the table as it stands in the README."""
    lines = ["| measure | taskqueue | limit | best peer | ratio: goal |", "| --- | ---: | ---: | --- | --- |"]
    for finding in findings:
        measure, mine, limit, peer, *_ = _cells(finding)
        goals = "; ".join(
            f"{ratio(goal)}: {goal.text}{'' if goal.met else ' (not met)'}" for goal in finding.goals
        )
        lines.append(f"| {measure} | {mine} | {limit} | {peer} | {goals} |")
    return "\n".join(lines) + "\n"


def write(path: Path, findings: Sequence[Finding], **about: Any) -> None:
    """Write everything as JSON."""
    whole = {"machine": machine(), **about, "findings": [asdict(each) for each in findings]}
    path.write_text(json.dumps(whole, indent=1, default=str) + "\n", encoding="utf-8")


def machine() -> dict[str, Any]:
    """Say what was measured on, and with which versions."""
    command = ["dpkg-query", "-W", "-f", "${Version}", "rabbitmq-server"]
    broker = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    return {
        "time": time.strftime("%Y-%m-%d %H:%M"),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "rabbitmq": broker,
        "packages": {name: _version(name) for name in _PACKAGES},
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
