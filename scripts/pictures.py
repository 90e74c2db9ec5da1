"""What `make pictures` runs: the pictures of docs/monitor.md and README.md, of everything real.

Starts `taskqueue up` with the plugins of a shop, submits some hundred workitems, of which some fail, some
crash and one hangs, and takes pictures of the monitor's pages in Chromium and of `taskqueue top`. Ids,
numbers and errors are the same in each run; times are not. All else is in a
directory in /var/tmp, which is removed.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from demo import prepare, running_taskqueue
from rich.console import Console
from support import shop
from support.browser import Browser
from support.foreign import Foreign
from support.waiting import wait_until

from taskqueue.cli.screens.choice import Choice
from taskqueue.cli.screens.frame import frame
from taskqueue.cli.screens.overview import Overview
from taskqueue.monitor.client import HttpReader

WIDTH = 1360  # pixels
#: Name, path and height in pixels of each picture of a page.
PAGES = (
    ("overview", "/", 900),
    ("running", "/running", 330),
    ("workitem", "/workitems/report-0001", 820),
    ("failure", "/workitems/mail-0007", 900),
    ("dead-letters", "/dead-letters", 560),
)
SETTINGS = """
max_crashes = 1
[monitor]
listen = 127.0.0.1:0
database = {}
[report]
timeout = 600
"""
MONITOR = re.compile(r"monitor is at (\S+); its token is (\S+)\n")
TERMINAL = 90, 24  # columns and lines of `taskqueue top`
LARGEST = 150_000  # bytes of a picture
JSON = "application/json"
FAILURES = {
    "mail": ("ValueError", "no address for customer"),
    "invoice": ("ValueError", "customer owes nothing, order"),
}
NUMBERS = {"mail": 240, "invoice": 120, "thumbnail": 60}
CRASHES = (17, 34, 51)  # thumbnails


def main() -> int:
    """Make the pictures in the directory of the first argument; return the exit status."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that everything is stopped then, too
    target = Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    directory = Path(tempfile.mkdtemp(prefix="taskqueue-pictures-", dir="/var/tmp"))
    try:
        python, _ = prepare(directory)
        directory.chmod(0o755)
        plugins = directory / "shop"
        plugins.mkdir(0o755)
        os.environ["PYTHONPATH"] = str(shop.install(plugins))
        with running_taskqueue(python, directory, SETTINGS.format(directory / "record")) as url:
            draw(url, directory, target)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return 0


def draw(url: str, directory: Path, target: Path) -> None:
    """Submit the workitems, wait for their ends, and take the pictures."""
    log = directory / "up.log"
    wait_until(lambda: MONITOR.search(log.read_text()), 60)
    address, token = MONITOR.findall(log.read_text())[0]
    reader = HttpReader(address, token)
    submit(url, directory / "never")
    over = sum(NUMBERS.values())
    wait_until(lambda: ended(reader) == over, 120, lambda: ended(reader))
    running = {"state": ["running"], "type": ["report"]}
    wait_until(lambda: reader.ask("count", running)["count"] == 1, 60)
    browser = Browser(directory / "chromium")
    try:
        browser.url = address
        browser.set_zone("UTC")
        browser.set_width(WIDTH)
        browser.open(f"/login?token={token}")
        for name, path, height in PAGES:
            picture(browser, path, height, target / f"{name}.png")
    finally:
        browser.close()
    terminal(reader, target / "top.svg")


def submit(url: str, gate: Path) -> None:
    """Submit the workitems; gate -- a file that never exists: for it, one of them waits for ever."""
    with Foreign(url) as foreign:
        for kind, number, body in workitems(gate):
            id_ = f"{kind}-{number:04}"
            foreign.publish(json.dumps(body), type=kind, message_id=id_, content_type=JSON)


def workitems(gate: Path) -> Iterator[tuple[str, int, dict[str, object]]]:
    """Yield worker type, number and body of each."""
    yield "report", 1, {"gate": str(gate), "pages": 40}
    for kind, most in NUMBERS.items():
        for number in range(1, most + 1):
            body: dict[str, object] = {"order": number, "customer": f"customer {number % 31}"}
            if kind in FAILURES and number % 16 == 7:
                body["fails"] = f"{FAILURES[kind][1]} {number}"
            if kind == "thumbnail" and number in CRASHES:
                body["crashes"] = True
            yield kind, number, body


def ended(reader: HttpReader) -> int:
    """Return how many workitems have ended."""
    return int(reader.ask("count", {"state": ["succeeded", "failed"]})["count"])


def picture(browser: Browser, path: str, height: int, file: Path) -> None:
    """Take a picture of a page, with few colours."""
    browser.set_width(WIDTH, height)
    browser.open(path)
    wait_until(lambda: browser.all("button.live") or not browser.all("main [data-live]"), 20)
    browser.driver.save_screenshot(str(file))
    subprocess.run(
        ["pngquant", "--force", "--strip", "--speed", "1", "--ext", ".png", "64", str(file)], check=True
    )
    check(file)


def terminal(reader: HttpReader, file: Path) -> None:
    """Take a picture of `taskqueue top`; the fonts are the viewer's own."""
    width, height = TERMINAL
    choice = Choice((Overview(),))
    seen = choice.screen.read(reader, choice.want)
    choice.take(seen.rows)
    with open(os.devnull, "w", encoding="utf-8") as nowhere:  # noqa: PTH123 -- it is no file
        console = Console(record=True, width=width, file=nowhere, force_terminal=True)
        for line in frame(choice, seen, "", width, height):
            console.print(line)
    text = console.export_svg(title="taskqueue top")
    text = re.sub(r"@font-face \{.*?\}\s*|<!--.*?-->\s*", "", text, flags=re.DOTALL)
    file.write_text(text, encoding="utf-8")
    check(file)


def check(file: Path) -> None:
    """Say what was made; end if it is too large."""
    size = file.stat().st_size
    print(f"{file}: {size} bytes")
    if size > LARGEST:
        sys.exit(f"{file} has {size} bytes; expected at most {LARGEST}")


if __name__ == "__main__":
    sys.exit(main())
