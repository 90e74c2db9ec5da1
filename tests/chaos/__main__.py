"""Counts what is lost and doubled while everything that handles workitems is killed, cut and restarted."""

import argparse
import json
import shutil
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from stage import stage
from support import rabbitmq
from support.node import Node
from support.site import AS_ROOT

from chaos.plant import Plant
from chaos.report import report, tables
from chaos.run import run
from chaos.schedule import schedule
from chaos.workload import workload

TOLD_EACH = 20  # faults, where there is no terminal


def main() -> int:
    """Run the suite; return 0 if every workitem is accounted for."""
    options = parse()
    path = Path(tempfile.mkdtemp(prefix="tq-chaos-", dir="/var/tmp"))
    path.chmod(0o755)  # every user must be able to enter
    is_balanced = False
    try:
        is_balanced = measure(options, path)
    finally:
        shutil.rmtree(path / "stage", ignore_errors=True)
        if is_balanced:
            shutil.rmtree(path)
        else:
            sys.stderr.write(f"what the daemons wrote is in {path}\n")
    return 0 if is_balanced else 1


def measure(options: argparse.Namespace, path: Path) -> bool:
    """Run the suite in an empty directory, and print what it shows; tell whether every account balances."""
    console = Console()
    console.print(f"seed {options.seed}: {options.workitems} workitems, {options.faults} faults")
    work, faults = workload(options.seed, options.workitems), schedule(options.seed, options.faults)
    began = time.monotonic()
    if options.rabbitmq:
        Node.start_script = rabbitmq.server(options.rabbitmq)
    python = stage(path / "stage") if AS_ROOT else Path(sys.executable)
    with Node(path / "broker") as node, Plant(python, path, node, node.url) as plant:
        with progress(console, len(faults)) as tell:
            account, hits = run(plant, work, faults, tell, seed=options.seed)
        content = report(account, hits, options.seed, time.monotonic() - began, plant.foreign)
    console.print(tables(content))
    if options.json:
        options.json.write_text(json.dumps(content, indent=2) + "\n")
    return account.is_balanced


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="which faults come, and in which order")
    parser.add_argument("--workitems", type=int, default=20_000)
    parser.add_argument("--faults", type=int, default=300)
    parser.add_argument(
        "--rabbitmq", choices=sorted(rabbitmq.RELEASES), help="another release's instead of the installed one"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report there, too")
    return parser.parse_args()


@contextmanager
def progress(console: Console, faults: int):
    """Show how far a run is: a bar on a terminal, else a line now and then."""
    if not console.is_terminal:
        yield lambda number, what: number % TOLD_EACH or console.print(f"{number} of {faults} faults; {what}")
        return
    with Progress(console=console) as bar:
        task = bar.add_task("", total=faults)
        yield lambda number, what: bar.update(task, completed=number, description=what)


if __name__ == "__main__":
    sys.exit(main())
