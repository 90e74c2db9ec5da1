"""taskqueue as the benchmark runs it: its daemons, and a producer that is a process of its own.

Run as `python -m benchmarks.ours submit ...` this is that producer.
"""

import contextlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from benchmarks.ground import Ground, Process, free_port
from taskqueue import Client

BODY: Final = '{"number": %d, "text": "' + "x" * 160 + '"}'  # 200 bytes with the rest of the native form


def native(worker_type: str, body: str = BODY % 1) -> str:
    """Return a message in the native JSON form."""
    return json.dumps({"worker_type": worker_type, "workitem": json.loads(body)})


def configure(ground: Ground, sections: str) -> Path:
    """Write a configuration; nobody works but whom `sections` name."""
    path = ground.directory / "config.ini"
    path.write_text(f"[amqp]\nurl: {ground.url}\n[DEFAULT]\nworkers: 0\n{sections}\n", encoding="utf-8")
    path.chmod(0o640)
    if os.geteuid() == 0:
        shutil.chown(path, group="taskqueue")
    return path


@contextlib.contextmanager
def dispatcher(
    ground: Ground, sections: str = "", *, number: int = 1, ready: str = "takes work"
) -> Iterator[list[int]]:
    """Have dispatchers run, each of which has said that it is ready; yield their process ids."""
    with _daemons(ground, "dispatcher", sections, number, ready) as pids:
        yield pids


@contextlib.contextmanager
def pool(ground: Ground, sections: str, *, number: int = 1) -> Iterator[list[int]]:
    """Have worker pools run; yield their process ids."""
    with _daemons(ground, "workerpool", sections, number, "takes work") as pids:
        yield pids


@contextlib.contextmanager
def monitor(ground: Ground) -> Iterator[tuple[int, Path]]:
    """Have a monitor record into a new directory, at nice 10; yield its process id and the directory."""
    with tempfile.TemporaryDirectory(dir=ground.directory) as directory:
        record = Path(directory) / "record"
        if os.geteuid() == 0:  # the daemon's processes need a way to it
            Path(directory).chmod(0o711)
            ground.directory.chmod(0o711)
        path = configure(ground, f"[monitor]\ndatabase: {record}\nlisten: 127.0.0.1:{free_port()}")
        command = [
            "nice",
            "-n",
            "10",
            sys.executable,
            "-P",
            "-m",
            "taskqueue",
            "monitor",
            "-f",
            "-c",
            str(path),
        ]
        with ground.running([ground.start(command).wait_for("records")]) as [pid]:
            yield pid, record


def start_pool(ground: Ground, sections: str) -> Process:
    """Start a worker pool and do not wait for it."""
    return _daemon(ground, "workerpool", configure(ground, sections))


@contextlib.contextmanager
def _daemons(ground: Ground, name: str, sections: str, number: int, ready: str) -> Iterator[list[int]]:
    path = configure(ground, sections)
    started = [_daemon(ground, name, path) for _ in range(number)]
    with ground.running([each.wait_for(ready) for each in started]) as pids:
        yield pids


def _daemon(ground: Ground, name: str, path: Path) -> Process:
    return ground.module("taskqueue", name, "-f", "-c", path)


def submitter(ground: Ground, worker_type: str, count: int) -> Process:
    """Start a producer of `count` workitems."""
    return ground.module("benchmarks.ours", "submit", worker_type, count)


def _submit(worker_type: str, count: int) -> float:
    """Submit with the public client; return the seconds from the first workitem to the last confirm."""
    begun = 0.0

    def workitems() -> Iterator[object]:
        nonlocal begun
        begun = time.perf_counter()
        text = json.loads(BODY % 1)["text"]
        for number in range(count):
            yield {"number": number, "text": text}

    with Client(os.environ["AMQP_URL"]) as client:
        client.submit_many(worker_type, workitems())
        return time.perf_counter() - begun


def main(role: str, worker_type: str, count: str) -> None:
    """Play a role; there is one."""
    if role == "submit":
        seconds = _submit(worker_type, int(count))
        cpu = time.process_time() / int(count)
        print(json.dumps({"rate": int(count) / seconds, "cpu": cpu}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
