"""A record of the monitor with known workitems, written by the store."""

import time
from pathlib import Path

from taskqueue.messages.events import (
    Batch,
    Begun,
    Emitter,
    Ended,
    Event,
    LogLine,
    ProcessState,
    Rejected,
    Routed,
)
from taskqueue.monitor.store.store import Store

NOW = time.time()
DISPATCHER = Emitter("host1", "dispatcher", "", 11, NOW - 1000)
CONSUMER = Emitter("host2", "consumer", "digest", 22, NOW - 1000)
SECRET = "the body of north-1, with invoice 4711"
RESULT = "eyJzdW0iOiAzfQ=="  # {"sum": 3}

ROUTED = [
    Routed("north-1", "digest", NOW - 100, 40, tenant="north", labels="nightly big", head=SECRET),
    Routed("north-2", "digest", NOW - 90, 40, tenant="north", head="second"),
    Routed("south-1", "mail", NOW - 80, 40, tenant="south", head="third"),
    Routed("south-2", "mail", NOW - 70, 40, tenant="south", head="fourth"),
    Routed("plain-1", "image-small", NOW - 60, 40, due=NOW + 3600),
    Routed("odd/../id?x=1&y <b>", "digest", NOW - 50, 40),
]
ENDED = [
    Begun("north-1", "digest", 1, NOW - 99, "digest/1", tenant="north"),
    LogLine("north-1", NOW - 98, "digest/1", "stdout", "first line", tenant="north"),
    LogLine("north-1", NOW - 97, "digest/1", "info", "second \x1b[31mline", tenant="north"),
    Ended("north-1", "digest", 1, "succeeded", "succeeded", NOW - 95, NOW - 99, worker="digest/1", size=10,
          user="images", tenant="north",
          labels="nightly big", content_type="application/json", result=RESULT),
    Ended("south-1", "mail", 1, "failed", "failed", NOW - 75, NOW - 79, worker="mail/1", user="mail",
          error="SMTPError: disk full", traceback="Traceback: line 1\nline 2", tenant="south"),
    Begun("south-2", "mail", 1, NOW - 69, "mail/1", tenant="south"),
    Rejected("reject-1", "", NOW - 40, "no worker type"),
    ProcessState(NOW - 1, "takes work", slots=4, busy=1, rss=10_000_000, cpu=1.5),
]  # fmt: skip


def batch(emitter: Emitter, number: int, events: list[Event]) -> Batch:
    return Batch(emitter, number, len(events), events, 0)


def write_record(directory: Path) -> None:
    """Write the workitems above into a new record."""
    with Store(directory) as store:
        routed = batch(DISPATCHER, 0, [*ROUTED, ProcessState(NOW - 2, "routes", slots=1000)])
        store.write([(1, routed), (2, batch(CONSUMER, 0, list(ENDED)))])
