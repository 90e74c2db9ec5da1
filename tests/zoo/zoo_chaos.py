"""The plugin of the chaos suite: each workitem's body says how it behaves."""

import os
import time
from pathlib import Path

from taskqueue import Reject
from taskqueue.worker.base import BaseWorker


class Chameleon(BaseWorker):
    """Behaves well or badly, always or once."""

    def handle_task(self, body):
        how, is_first, began = body["how"], self.workitem.attempt == 1, time.time()
        if "code" in body:
            occupy_slot(body)
        else:
            time.sleep(body["seconds"])
        if "note" in body and not (how == "crashing once" and is_first):
            note(body["note"], f"{self.workitem.id} {began} {time.time()}\n")
        if how == "raising" or (how == "raising once" and is_first):
            raise ValueError("as it was asked to")
        if how == "crashing" or (how == "crashing once" and is_first):
            os._exit(3)
        if how == "rejecting":
            raise Reject("as it was asked to")
        if how == "eating memory":
            eat()
        if "result" in body:
            return body["result"]
        return {"attempt": self.workitem.attempt, "tick": tick_of(self.workitem.headers)}


def tick_of(headers):
    """Return the schedule and the time of a tick's workitem, "" of any other one."""
    if "x-taskqueue-schedule" not in headers:
        return ""
    return f"{headers['x-taskqueue-schedule']} {headers['x-taskqueue-tick']:.0f}"


def note(path, line):
    """Append a line to a file, whole."""
    notes = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    os.write(notes, line.encode())
    os.close(notes)


def occupy_slot(body):
    """Run tests/support/slots.py's code, which the body brings along: it counts what runs at once."""
    slots = Path(__file__).with_name("slots")
    names = {
        "DIRECTORY": str(slots),
        "OPEN": str(slots / "open"),
        "SECONDS": body["seconds"],
        "WORD": body["how"],
    }
    exec(body["code"], names)


def eat():
    """Eat memory until there is no more."""
    eaten = []
    while True:
        eaten.append(bytearray(16 * 1024 * 1024))
