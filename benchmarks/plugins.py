"""The plugins that the worker pool of the benchmark runs; `install` makes a distribution of them."""

import os
import shutil
import time
from pathlib import Path
from typing import Any, Final

from taskqueue.worker.base import BaseWorker

_ENTRY_POINTS: Final = """
[worker.plugins]
noop = bench_plugins:Noop.factory
nap = bench_plugins:Nap.factory
note = bench_plugins:Note.factory
"""


def install(directory: Path) -> None:
    """Install the plugins into a new directory that must then be on PYTHONPATH."""
    metadata = directory / "bench_plugins-1.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: bench-plugins\nVersion: 1\n")
    (metadata / "entry_points.txt").write_text(_ENTRY_POINTS)
    shutil.copyfile(__file__, directory / "bench_plugins.py")


class Noop(BaseWorker):
    """Does nothing."""

    def handle_task(self, body: Any) -> Any:
        """Return the number that the workitem carries, as the peers' tasks do."""
        return body["number"]


class Nap(BaseWorker):
    """Sleeps."""

    def handle_task(self, body: Any) -> Any:
        """Sleep for `seconds`."""
        time.sleep(body["seconds"])


class Note(BaseWorker):
    """Writes its process id into a file when it is ready, and with the time when it begins a workitem."""

    def setup(self) -> None:
        """Open the file `notes` of the settings."""
        self._notes = os.open(self.settings["notes"], os.O_WRONLY | os.O_APPEND)
        os.write(self._notes, b"ready %d\n" % os.getpid())

    def handle_task(self, _body: Any) -> Any:
        """Write a line, and take a millisecond."""
        os.write(self._notes, b"work %d %d\n" % (os.getpid(), time.monotonic_ns()))
        time.sleep(0.001)
