"""What `make demo` runs: digests some files with everything real, and checks the results with sha256sum.

Starts `taskqueue up` (a RabbitMQ node of its own, dispatcher, worker pool), submits a workitem a file to
the example plugin, collects the results, stops everything. Exit status 0 only if every digest is right
and no process is left. What it writes, it writes below one directory in /var/tmp, which it removes.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

import amqp
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from stage import ROOT, project_files, stage

from taskqueue import private_broker as private

LICENSES = Path("/usr/share/common-licenses")
START_TIMEOUT = 120.0  # seconds
STOP_TIMEOUT = 60.0
RESULT_TIMEOUT = 60.0  # seconds without any result
ROWS = 25  # of the table; the summary counts all
MARK = "TASKQUEUE_DEMO"  # a variable that all the demo's processes inherit

console = Console()


@dataclass(frozen=True)
class Result:
    """What came back for one file."""

    succeeded: bool
    body: dict[str, object]


def main() -> int:
    """Run the demo; return its exit status."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that everything is stopped then, too
    directory = Path(tempfile.mkdtemp(prefix="taskqueue-demo-", dir="/var/tmp"))
    try:
        python, tree = prepare(directory)
        files = [path for path in [*sorted(LICENSES.iterdir()), *tree] if path.is_file()]
        with running_taskqueue(python, directory) as url:
            results = dict(digest_all(url, files))
        return report(files, results, directory)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def prepare(directory: Path) -> tuple[Path, list[Path]]:
    """Return the Python to run with and the project's files, both where the workers may read them."""
    if os.geteuid() != 0:
        return Path(sys.executable), [ROOT / file for file in project_files()]
    # Workers will run as taskqueue-worker, who may not enter the checkout.
    directory.chmod(0o755)
    python = stage(directory / "stage")
    return python, sorted((directory / "stage/tree").rglob("*"))


@contextlib.contextmanager
def running_taskqueue(python: Path, directory: Path, settings: str = "") -> Iterator[str]:
    """Have `taskqueue up` run, with a broker of its own; yield the broker's address.

    settings -- what the configuration has besides the number of workers
    """
    config, log = directory / "config.ini", directory / "up.log"
    config.write_text(f"[DEFAULT]\nworkers = {os.cpu_count()}\n{settings}")
    os.environ |= {"XDG_STATE_HOME": str(directory / "state"), MARK: directory.name}
    os.environ.pop("TASKQUEUE_AMQP", None)
    begin = time.monotonic()
    with log.open("wb") as output, console.status("Starting RabbitMQ, dispatcher and worker pool ..."):
        up = subprocess.Popen(
            [python, "-m", "taskqueue", "up", "-c", config],
            cwd=directory,
            stdout=output,
            stderr=output,
            start_new_session=True,  # Ctrl-C ends the demo, which then stops this in order
        )
    try:
        url = wait_until_ready(up, log)
        console.print(f"Started RabbitMQ, dispatcher and worker pool in {time.monotonic() - begin:.1f} s.")
        yield url
    except BaseException:
        console.print(f"The end of the log of taskqueue up:\n{tail(log)}", markup=False, highlight=False)
        raise
    finally:
        with console.status("Stopping everything ..."):
            stop(up)


def wait_until_ready(up: subprocess.Popen[bytes], log: Path) -> str:
    """Wait for the line that says that all is ready; return the address of the private broker."""
    deadline = time.monotonic() + START_TIMEOUT
    while " up: ready" not in log.read_text(errors="replace"):
        if up.poll() is not None:
            sys.exit(f"taskqueue up ended with status {up.returncode}")
        if time.monotonic() > deadline:
            sys.exit(f"taskqueue up was not ready within {START_TIMEOUT:.0f} s")
        time.sleep(0.05)
    url = private.running()
    if url is None:
        sys.exit("taskqueue up is ready, but its broker is not to be found")
    return url


def tail(log: Path, lines: int = 40) -> str:
    """Return the last lines of a log."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


def stop(up: subprocess.Popen[bytes]) -> None:
    """Stop as an administrator would; then kill what did not stop."""
    up.send_signal(signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        up.wait(STOP_TIMEOUT)
        return
    for pid in left_over():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    up.wait()


def left_over() -> list[int]:
    """Return the ids of the demo's processes that still run, itself not counted."""
    mark = f"{MARK}={os.environ[MARK]}".encode()
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has just ended, or is another user's
            if mark in (process / "environ").read_bytes().split(b"\0"):
                found.append(int(process.name))
    return found


def digest_all(url: str, files: list[Path]) -> Iterator[tuple[Path, Result]]:
    """Submit a workitem a file; yield the results as they come."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with connect(url) as connection, Progress(*columns, console=console) as progress:
        channel = connection.channel()
        for path in progress.track(files, description="Submitted"):
            submit(channel, path)
        waiting = {str(path): path for path in files}
        bar = progress.add_task("Results  ", total=len(files))
        for name, result in results(connection, channel):
            if path := waiting.pop(name, None):  # else it came twice, which at-least-once allows
                progress.advance(bar)
                yield path, result
            if not waiting:
                return


def connect(url: str) -> amqp.Connection:
    """Connect as any producer would: with a client that knows nothing of taskqueue."""
    address = urlsplit(url)
    return amqp.Connection(
        f"{address.hostname}:{address.port}",
        userid=unquote(address.username or ""),
        password=unquote(address.password or ""),
        virtual_host=unquote(address.path[1:]) or "/",
        confirm_publish=True,
    )


def submit(channel: amqp.Channel, path: Path) -> None:
    """Put one workitem on the queue `taskqueue`; return when the broker has confirmed it."""
    workitem = amqp.Message(
        str(path), type="digest", content_type="text/plain", correlation_id=path.name[:200], delivery_mode=2
    )
    channel.basic_publish(workitem, routing_key="taskqueue", mandatory=True)


def results(connection: amqp.Connection, channel: amqp.Channel) -> Iterator[tuple[str, Result]]:
    """Yield path and result as they arrive on the queue `results`."""
    arrived: list[amqp.Message] = []
    channel.queue_declare("results", durable=True, auto_delete=False)
    channel.basic_consume("results", callback=arrived.append)
    while True:
        while not arrived:
            try:
                connection.drain_events(timeout=RESULT_TIMEOUT)
            except TimeoutError:
                sys.exit(f"no result came for {RESULT_TIMEOUT:.0f} s")
        message = arrived.pop(0)
        body = json.loads(message.body)
        yield str(body.get("path") or body.get("workitem")), Result("error" not in body, body)
        channel.basic_ack(message.delivery_tag)


def report(files: list[Path], results: dict[Path, Result], directory: Path) -> int:
    """Compare with sha256sum, print table and summary, look for left-overs; return the exit status."""
    expected = sha256sum(files)
    wrong = [path for path in files if digest_of(results[path]) != expected[path]]
    right = [path for path in files if path not in wrong]
    console.print(table([*wrong, *right][: max(ROWS, len(wrong))], results, wrong, directory))
    if len(files) > ROWS:
        console.print(f"and {len(files) - ROWS} more.")
    total = sum(int(str(results[path].body["size"])) for path in right)
    console.print(f"{len(right)} of {len(files)} digests ({total / 1e6:.1f} MB) are what sha256sum says.")
    if left := left_over():
        console.print(f"[red]These processes are left: {left}")
    else:
        console.print("Everything is stopped; no process is left.")
    return 1 if wrong or left else 0


def digest_of(result: Result) -> object:
    """Return the checksum that came back, or None for a failure."""
    return result.body.get("sha256") if result.succeeded else None


def sha256sum(files: list[Path]) -> dict[Path, str]:
    """Ask the other opinion."""
    lines = subprocess.run(
        ["sha256sum", "--zero", "--", *files], check=True, capture_output=True, text=True
    ).stdout.split("\0")
    return {Path(line[66:]): line[:64] for line in lines if line}


def table(shown: list[Path], results: dict[Path, Result], wrong: list[Path], directory: Path) -> Table:
    """Make a table of some of the results."""
    made = Table("file", "bytes", "lines", "SHA-256", "sha256sum")
    for column in made.columns[1:3]:
        column.justify = "right"
    for path in shown:
        body = results[path].body
        name = str(path)
        for prefix in (f"{directory}/stage/tree/", f"{ROOT}/", f"{LICENSES.parent}/"):
            name = name.removeprefix(prefix)
        checksum = str(body.get("sha256") or body.get("error"))
        verdict = "[red]differs" if path in wrong else "[green]the same"
        made.add_row(name, str(body.get("size", "")), str(body.get("lines", "")), checksum[:16], verdict)
    return made


if __name__ == "__main__":
    sys.exit(main())
