"""Small worker plugins and formats for the tests; `install` makes an installed distribution of them."""

import shutil
from pathlib import Path
from typing import Any, ClassVar

from taskqueue.errors import Reject, Unroutable
from taskqueue.messages.routing import Route
from taskqueue.worker.base import BaseWorker

ENTRY_POINTS = """
[worker.plugins]
echo = samples:Echo.factory
tell = samples:Tell.factory
evaluate = samples:Evaluate.factory
picky = samples:Picky.factory
spurn = samples:Spurn.factory

[taskqueue.tasks]
remote = remote

[taskqueue.formats]
application/x-first-line = samples:read_first_line
"""


def install(directory: Path) -> Path:
    """Install the samples into a directory that must then be on PYTHONPATH; return it."""
    metadata = directory / "samples-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: samples\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(ENTRY_POINTS)
    for module in (Path(__file__), Path(__file__).with_name("remote.py")):
        shutil.copyfile(module, directory / module.name)
    return directory


class Echo(BaseWorker):
    """Returns what it gets."""

    def handle_task(self, body: Any) -> Any:
        return body


class Tell(BaseWorker):
    """Tells what it knows about its workitem."""

    def handle_task(self, body: Any) -> Any:
        item = self.workitem
        return {
            "body": repr(body),
            "id": item.id,
            "attempt": item.attempt,
            "headers": sorted(item.headers),
            "content_type": item.content_type,
            "settings": dict(self.settings),
        }


class Evaluate(BaseWorker):
    """Returns, or raises, what a Python expression comes to."""

    def handle_task(self, body: Any) -> Any:
        return eval(body)


class Spurn(BaseWorker):
    """Wants nothing."""

    def handle_task(self, body: Any) -> Any:
        raise Reject(f"unwanted: {type(body).__name__}")


class Picky(BaseWorker):
    """Takes text only."""

    ACCEPT: ClassVar[list[str]] = ["text/*"]

    def handle_task(self, body: Any) -> Any:
        return body


def read_first_line(body: bytes) -> Route:
    """Route by the first line; the rest is the workitem."""
    name, found, rest = body.partition(b"\n")
    if not found:
        raise Unroutable("there is no second line")
    return Route(name.decode(), rest)
