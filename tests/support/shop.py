"""Plugins of a shop, for the monitor's pages: workitems that succeed, fail, crash, and run until told."""

import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

from taskqueue.worker.base import BaseWorker

ENTRY_POINTS = """
[worker.plugins]
invoice = shop:Clerk.factory
mail = shop:Clerk.factory
thumbnail = shop:Clerk.factory
report = shop:Writer.factory
"""
_POLL_DELAY = 0.2


def install(directory: Path) -> Path:
    """Install the plugins into a directory that must then be on PYTHONPATH; return it."""
    metadata = directory / "shop-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: shop\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(ENTRY_POINTS)
    shutil.copyfile(__file__, directory / "shop.py")
    return directory


class Clerk(BaseWorker):
    """Fails with a text, crashes, or returns the order, as its body says.

    It neither fails nor crashes once the file exists that its body names as the repair.
    """

    def handle_task(self, body: Any) -> Any:
        print(f"order {body.get('order')}")
        if not Path(body.get("repair", "/nowhere")).exists():
            if "fails" in body:
                raise ValueError(body["fails"])
            if "crashes" in body:
                os.kill(os.getpid(), signal.SIGSEGV)
        return {"done": body.get("order")}


class Writer(BaseWorker):
    """Writes pages, with progress, until the file exists that its body names."""

    def handle_task(self, body: Any) -> Any:
        page = 0
        while not Path(body["gate"]).exists():
            if page < body["pages"]:
                page += 1
                print(f"page {page} of {body['pages']}")
            self.progress(page / (2 * body["pages"]), f"page {page}")  # of the first second it is not told
            time.sleep(_POLL_DELAY)
        print("printed")
        return {"pages": page}
