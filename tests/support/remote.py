"""Tasks for the tests; a file that `taskqueue work` is given, and that every user can read."""

import asyncio
import os
import signal
import time
from pathlib import Path

from taskqueue import Reject, Retry, progress, task

LONG = 60  # seconds: what goes on so long outlasts every wait of a test


@task
def add(a, b):
    return a + b


@task(name="images.thumbnail", timeout=0.3, retries=1)
def thumbnail(path, width=128):
    if path == "slow.png":
        time.sleep(30)
    return [path, width]


@task
def divide(a, b):
    return a / b


@task
def inexpressible():
    return {1, 2}


@task
def die():
    os.kill(os.getpid(), signal.SIGKILL)


@task
def wait(gate, note=""):
    """Wait until a file is there; note each run in another."""
    if note:
        with Path(note).open("a") as notes:
            notes.write(f"{os.getpid()}\n")
    progress(0.4, "so far")
    while not Path(gate).exists():
        time.sleep(0.02)
    return os.getpid()


@task
def walk(steps):
    """Tell of each step."""
    for step in range(steps):
        progress(step / steps)
        time.sleep(0.05)
    return steps


@task(retries=3)
def stubborn(notes):
    """Succeed at the third run."""
    with Path(notes).open("a+") as file:
        file.write("run\n")
        file.seek(0)
        if len(file.readlines()) < 3:
            raise Retry("not yet", delay=0)
    return "at last"


@task
def refuse():
    raise Reject("never that")


@task
def words(text):
    return text.split()


@task
def count(lists):
    return sum(len(each) for each in lists)


@task(timeout=0.3)
async def charge(notes, is_deaf):
    """Go on for long; heed a cancellation, and note it, or not."""
    note_process(notes)
    try:
        await asyncio.sleep(LONG)
    except asyncio.CancelledError:
        if not is_deaf:
            Path(f"{notes}.cancelled").touch()  # noqa: ASYNC240 -- there is nothing else to do meanwhile
            raise
        await asyncio.sleep(LONG)


@task(timeout=0.3)
async def tidy(notes):
    """Clean up on the loop when the time is up."""
    try:
        await asyncio.sleep(30)
    finally:
        await asyncio.sleep(0.1)
        Path(notes).write_text("tidied")  # noqa: ASYNC240 -- there is nothing else to do meanwhile


@task(timeout=0.3)
async def divided():
    """Have something else on the loop that takes all exceptions to be its own, and goes on."""

    async def go_on():
        while True:
            try:
                for _ in range(1000):
                    await asyncio.sleep(0)
            except Exception:  # noqa: BLE001 -- the worst that it can do
                pass
            time.sleep(0.001)  # noqa: ASYNC251 -- so that an alarm comes here

    other = asyncio.create_task(go_on())
    await asyncio.sleep(30)
    return other


@task(timeout=0.3)
async def threaded(notes):
    """Leave a thread behind."""
    note_process(notes)
    await asyncio.to_thread(time.sleep, LONG)


def note_process(notes):
    Path(f"{notes}.pid").write_text(str(os.getpid()))


@task
async def later(value):
    return value
