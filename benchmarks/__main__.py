"""`python -m benchmarks`: measures the rows, and writes table, picture and JSON."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

import click
from rich.console import Console

from benchmarks import (
    calling,
    commanding,
    fairness,
    feeding,
    flows,
    hosts,
    limiting,
    pages,
    plugins,
    record,
    recording,
    report,
    rows,
    scheduling,
    uniqueness,
)
from benchmarks.findings import Finding
from benchmarks.ground import BenchmarkFailed, Ground
from benchmarks.racing import Race
from taskqueue.errors import TaskqueueError

RESULTS: Final = Path(__file__).parent / "results"

#: The rows by name, in the order of the table.
ROWS: Final[dict[str, Callable[[rows.Bench], Iterable[Finding]]]] = {
    "submit": rows.submit,
    "relay": rows.relay,
    "drain": rows.drain,
    "whole": rows.whole,
    "trip": calling.trip,
    "calls": calling.calls,
    "workers": hosts.workers,
    "idle": hosts.idle,
    "recovery": hosts.recovery,
    "start": hosts.start,
    "backlog": rows.backlog,
    "types": rows.types,
    "commands": commanding.commands,
    "lanes": fairness.lanes,
    "limits": limiting.limits,
    "rates": limiting.rates,
    "unique": uniqueness.unique,
    "schedules": scheduling.schedules,
    "chains": flows.chains,
    "groups": flows.groups,
    "workflows": flows.workflows,
    "keeping": flows.keeping,
    "feed": feeding.feed,
    "events": recording.events,
    "monitor": recording.monitor,
    "memory": recording.memory,
    "record": record.record,
    "pages": pages.pages,
}

console = Console()


@click.command()
@click.option("--only", multiple=True, metavar="ROW", type=click.Choice(list(ROWS)), help="Just this row.")
@click.option("--quick", is_flag=True, help="Less of everything.")
@click.option("--peers/--no-peers", default=True, help="Whether the peers are measured, too.")
@click.option("--rounds", type=click.IntRange(1), help="Rounds of each row; the median counts.")
def main(*, only: tuple[str, ...], quick: bool, peers: bool, rounds: int | None) -> None:
    """Measure taskqueue beside its peers and beside bare pika. Leave the machine idle meanwhile."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that everything is stopped then, too
    scale = rows.QUICK if quick else rows.Scale()
    if rounds:
        scale = replace(scale, rounds=rounds)
    begun, load = time.monotonic(), os.getloadavg()[0]
    if load > 0.5:
        console.print(f"[yellow]the machine is not idle (load {load:.1f}): expect figures that vary[/]")
    try:
        with Ground() as ground:
            plugins.install(ground.directory / "plugins")
            race = Race(ground, scale.tasks, peers)
            findings = list(_measure(rows.Bench(ground, scale, race), only or tuple(ROWS)))
            errors = {name: found.error for name, found in race.known().items() if found.error}
    except (BenchmarkFailed, TaskqueueError) as error:
        console.print(f"[red]benchmark failed:[/] {error}", markup=True)
        sys.exit(1)
    seconds = time.monotonic() - begun
    _publish(findings, "partial" if only else "quick" if quick else "full", seconds, errors)


def _measure(bench: rows.Bench, wanted: tuple[str, ...]) -> Iterator[Finding]:
    for name in wanted:
        with console.status(f"{name} ..."):
            begun = time.monotonic()
            for finding in ROWS[name](bench):
                _say(finding, time.monotonic() - begun)
                yield finding
            bench.ground.clear()


def _say(finding: Finding, seconds: float) -> None:
    goals = ", ".join(
        f"{report.ratio(goal)} ({goal.text}: {'met' if goal.met else 'not met'})" for goal in finding.goals
    )
    console.print(
        f"{finding.measure}: {report.shown(finding.ours)} {finding.unit}; {goals} [{seconds:.0f} s]"
    )


def _publish(findings: list[Finding], kind: str, seconds: float, errors: dict[str, str]) -> None:
    from benchmarks import picture  # noqa: PLC0415 -- a slow import, and not before it is needed

    RESULTS.mkdir(exist_ok=True)
    console.print(report.table(findings))
    for name, error in errors.items():
        console.print(f"{name} could not be measured: {error}", markup=False)
    report.write(RESULTS / f"{kind}.json", findings, seconds=round(seconds), kind=kind, errors=errors)
    (RESULTS / f"{kind}.md").write_text(report.markdown(findings), encoding="utf-8")
    picture.draw(RESULTS / f"{kind}.png", findings)
    console.print(f"{seconds:.0f} s; written to {RESULTS}: {kind}.json, {kind}.md, {kind}.png")


if __name__ == "__main__":
    main()
