"""A recorder's socket over a known record and real dead letters, and who asks there."""

import asyncio
import json
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from support.deadletters import FAILED, REJECTED, keep
from support.foreign import Foreign
from support.forked import Forked
from support.recorded import CONSUMER, batch

from taskqueue.broker.loop import EventLoop
from taskqueue.config import AmqpSettings
from taskqueue.messages.events import Ended, Event, Rejected, Routed
from taskqueue.monitor.action_server import ActionServer
from taskqueue.monitor.actions import Actor
from taskqueue.monitor.asking import ask
from taskqueue.monitor.record import Action, Filter
from taskqueue.monitor.repeating import Repeater
from taskqueue.monitor.store.reading import Record
from taskqueue.monitor.store.store import Store
from taskqueue.monitor.web import users
from taskqueue.monitor.web.api import ActionRequest
from taskqueue.monitor.web.rights import OPERATOR, OWN_RIGHTS, VIEWER, Rights
from taskqueue.monitor.web.users import UserFile

NOW = time.time()
OWN = OWN_RIGHTS
EVERYTHING = Filter()


def failed(name: str, kind: str, tenant: str) -> Event:
    return Ended(name, kind, 1, "failed", "failed", NOW - 5, NOW - 6, error="ValueError: no", tenant=tenant)


EVENTS: list[Event] = [
    failed("a", "digest", "north"),
    failed("b", "digest", "south"),
    failed("c", "mail", "south"),
    Rejected("d", "", NOW - 4, "no worker type"),
    Routed("e", "digest", NOW - 3, 1, tenant="north", labels="nightly schedule:backup"),
    Routed("f", "mail", NOW - 3, 1, tenant="south"),
    Ended("g", "digest", 1, "succeeded", "succeeded", NOW - 2, NOW - 3),
]


class Desk:
    """A recorder's socket, and who asks there."""

    def __init__(
        self, directory: Path, forked: Callable[..., Forked], url: str, control_key: str | None = None
    ) -> None:
        self.directory = directory
        with Store(directory) as store:
            store.write([(1, batch(CONSUMER, 0, EVENTS))])
        file = UserFile(directory / "users.json")
        file.add(users.user(Rights("eve", OPERATOR), "correct horse"))
        file.add(users.user(Rights("ann", OPERATOR, frozenset(("north",))), "correct horse"))
        file.add(users.user(Rights("bob", VIEWER), "correct horse"))
        file.add(users.user(Rights("dora", OPERATOR, bodies=True), "correct horse"))
        self.socket = directory / "actions.socket"
        self.process = forked(lambda: serve(directory, self.socket, file, url, control_key))
        self.process.wait_for("ready")

    def ask(
        self, action: str, *names: str, user: str = "eve", dry: bool = False, where: Filter | None = None
    ) -> int:
        request = ActionRequest(action, names, where, dry)
        return asyncio.run(ask(self.socket, Rights(user), request))

    def send(self, data: bytes) -> Any:
        """Send bytes to the socket; return the answer."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(10)
            sock.connect(str(self.socket))
            sock.sendall(data)
            received = sock.makefile("rb").readline()
        return json.loads(received) if received else None

    def audit(self) -> list[Action]:
        return Record(self.directory).actions()


def serve(directory: Path, path: Path, file: UserFile, url: str, control_key: str | None) -> None:
    loop = EventLoop()
    with Store(directory) as store:
        amqp = AmqpSettings.from_url(url)
        actor = Actor(directory, file, OWN, lambda: amqp, control_key=control_key)
        repeater = Repeater(loop, store.cancels, amqp)
        ActionServer(loop, path, actor, write_audit=store.add_action, keep_cancels=repeater.keep)
        print("ready", flush=True)
        loop.run()


def desk_over_letters(directory: Path, forked: Callable[..., Forked], url: str, foreign: Foreign) -> Desk:
    """Return a desk whose failed and rejected workitems are in their queues."""
    for queue in (FAILED, REJECTED):
        foreign.declare(queue)
    for name, kind, tenant in (("a", "digest", "north"), ("b", "digest", "south"), ("c", "mail", "south")):
        keep(foreign, name, type=kind, tenant=tenant)
    keep(foreign, "d", where=REJECTED, queue="worker_digest")
    return Desk(directory, forked, url)
