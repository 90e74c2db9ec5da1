"""One Chromium and one shop, with broker, dispatcher, workers and monitor, for all tests of the pages."""

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from support import shop as plugins
from support.browser import PASSWORD, Browser, chromium
from support.ground import Ground, ground_on, open_directory, readable
from support.node import Node
from support.processes import Daemon
from support.site import python
from support.waiting import wait_until

from taskqueue.control import key
from taskqueue.monitor.record import Filter
from taskqueue.monitor.store.reading import Record
from taskqueue.monitor.web import users
from taskqueue.monitor.web.rights import ADMIN, OPERATOR, VIEWER, Rights
from taskqueue.monitor.web.users import UserFile

__all__ = ["python", "readable"]

JSON = "application/json"
CONFIG = """
[workerpool]
control_key: {key}
[monitor]
control_key: {key}
listen: 127.0.0.1:0
[schedule yearly]
cron: @yearly
type: invoice
body: {{}}
"""
ACCOUNTS = (
    Rights("vera", VIEWER),
    Rights("otto", OPERATOR),
    Rights("ada", ADMIN, bodies=True),
    Rights("nora", VIEWER, frozenset(("north",))),
)


class Shop:
    """`taskqueue up` with the plugins of a shop."""

    def __init__(self, ground: Ground) -> None:
        self.ground = ground
        self.foreign = ground.foreign
        place = ground.directory / "control.key"
        key.make(place, "taskqueue")
        running = ground.start("up", CONFIG.format(key=place), ready="INFO monitor: ready: ")
        self.url, self.token = re.findall(r"monitor is at (\S+); its token is (\S+)\n", running.output())[0]
        self.foreign.declare("taskqueue")
        self.record = self._record(running)
        with Record(self.record) as record:
            wait_until(
                lambda: {"consumer", "dispatcher"} <= {row.emitter.kind for row in record.emitters()}, 30
            )
        file = UserFile(self.record / "users.json")
        for rights in ACCOUNTS:
            file.add(users.user(rights, PASSWORD))

    def _kinds(self) -> set[str]:
        """Return the kinds of the processes that the record has."""
        with Record(self.record) as record:
            return {row.emitter.kind for row in record.emitters()}

    def submit(self, worker_type: str, id_: str, **body: object) -> None:
        """Submit a workitem."""
        self.foreign.publish(json.dumps(body), type=worker_type, message_id=id_, content_type=JSON)

    def submit_many(self, worker_type: str, bodies: Iterable[dict[str, object]]) -> None:
        """Submit workitems quickly; the dispatcher gives them ids."""
        self.foreign.publish_many(map(json.dumps, bodies), type=worker_type, content_type=JSON)

    def count(self, worker_type: str, state: str) -> int:
        """Return the number of recorded workitems of a type and state."""
        with Record(self.record) as record:
            return record.count(Filter(frozenset((state,)), frozenset((worker_type,))))

    def wait_for(self, worker_type: str, state: str, number: int, timeout: float = 60) -> None:
        """Wait until so many workitems of a type have a state."""
        wait_until(
            lambda: self.count(worker_type, state) == number, timeout, lambda: self.count(worker_type, state)
        )

    def file(self, name: str) -> Path:
        """Return a file that does not exist yet, where workers can see it."""
        return self.ground.open / name

    @staticmethod
    def _record(running: Daemon) -> Path:
        return running.directory / "taskqueue/monitor"


@pytest.fixture(scope="session")
def shop_of_all(session_broker: Node, readable: Path, python: Path) -> Iterator[Shop]:
    environment = {"PYTHONPATH": str(plugins.install(open_directory(readable / "shop")))}
    with ground_on(session_broker, readable, python, environment) as ground:
        yield Shop(ground)


@pytest.fixture(scope="session")
def browser_of_all(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


@pytest.fixture
def shop(shop_of_all: Shop) -> Shop:
    """The shop, whose workitems are those of all tests."""
    return shop_of_all


@pytest.fixture
def browser(browser_of_all: Browser, shop: Shop) -> Browser:
    """A browser at the shop's monitor, where nobody is logged in."""
    browser_of_all.url = shop.url
    browser_of_all.forget()
    return browser_of_all
