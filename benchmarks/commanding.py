"""The rows of commands: drain by a process for each workitem, and by programs that perform many."""

import shutil
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Final

from benchmarks import ours, rows
from benchmarks.findings import Finding, Goal
from benchmarks.meter import Pace, pace
from benchmarks.rows import Bench

_PYTHON: Final = """\
import json
answers = open(4, "w", buffering=1)
for line in open(3):
    item = json.loads(line)
    answer = {"id": item["id"], "status": "succeeded", "result": item["body"]["number"]}
    answers.write(json.dumps(answer) + "\\n")
"""
_NODE: Final = """\
const fs = require("fs");
const { createInterface } = require("readline");
const { Socket } = require("net");
createInterface({ input: new Socket({ fd: 3 }) }).on("line", (line) => {
  const { id, body } = JSON.parse(line);
  fs.writeSync(4, JSON.stringify({ id, status: "succeeded", result: body.number }) + "\\n");
});
"""


def commands(bench: Bench) -> Iterator[Finding]:
    """Start /bin/true for each workitem; pass workitems to a Python and a Node.js program and to a plugin."""
    (paces,) = bench.rounds(partial(_drain, bench, "command: /bin/true", bench.scale.messages // 20))
    rate = rows.median_rate(paces)
    goals = [Goal.at_least_a_second(rate, 300)]
    yield Finding("commands", "drain by /bin/true", "/s", rate, None, {}, goals, rows.details(ours=paces))
    yield Finding("commands", "its processor time", "µs", _cpu(paces), None, {}, [])
    programs = {name: found for name in ("python3", "node") if (found := _program(bench, name))}
    sections = ["", *(f"mode: stream\ncommand: {program}" for program in programs.values())]
    plugin, *others = bench.rounds(*(partial(_drain, bench, it, 2 * bench.scale.messages) for it in sections))
    most = rows.median_rate(plugin)
    for name, measured in zip(programs, others, strict=True):
        rate = rows.median_rate(measured)
        goals = [Goal.at_least(rate / most, 0.8, "a plugin's")]
        detail = rows.details(ours=measured, plugin=plugin)
        yield Finding("commands", f"drain by a {name} program", "/s", rate, most, {}, goals, detail)
        yield Finding("commands", "its processor time", "µs", _cpu(measured), _cpu(plugin), {}, [])


def _cpu(paces: Sequence[Pace]) -> float:
    """Return the processor time of consumer, workers and programs for each workitem, in microseconds."""
    return median(each.cpu for each in paces)


def _program(bench: Bench, name: str) -> str | None:
    """Return the command of a program that performs many workitems; None without its interpreter."""
    interpreter = f"{sys.executable} -S" if name == "python3" else shutil.which(name)
    file = Path(bench.ground.directory / "plugins" / f"answers-{name}")
    file.write_text(_PYTHON if name == "python3" else _NODE)
    return f"{interpreter} {file}" if interpreter else None


def _drain(bench: Bench, options: str, count: int) -> Pace:
    """Drain workitems by two workers; without options, by a plugin."""
    ground = bench.ground
    ground.declare("worker_noop", rows.RESULTS)
    ground.fill("worker_noop", [ours.BODY % 1], ["noop"], count)
    with ours.pool(ground, f"{rows.NOOP}\n{options}") as pids:
        return pace(lambda: ground.depth(rows.RESULTS), count, pids)
