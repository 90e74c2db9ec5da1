"""Events as a client that shares no code with taskqueue writes them (docs/protocol.md)."""

import time

from support.ground import Ground

EVENTS = "taskqueue_events"
STARTED = 1_700_000_000.0


def batch(number: int, *lines: str, pid: int = 1) -> str:
    """Return a batch as docs/protocol.md has it."""
    head = f"taskqueue-events\t1\tfar\tconsumer\tgood\t{pid}\t{STARTED}\t{number}"
    return "".join(f"{line}\n" for line in (head, *lines))


def ended(name: str, state: str = "succeeded") -> str:
    now = time.time()
    return f"ended\t{name}\tdigest\t1\t{state}\t{state}\t{now}\t{now - 1}\t{now - 2}\tdigest-1"


def publish(ground: Ground, *bodies: str | bytes) -> None:
    for body in bodies:
        ground.foreign.publish_to(EVENTS, "", body)
