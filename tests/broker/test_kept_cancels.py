"""Cancels that are done through the monitor reach consumers that connect later."""

import json
import urllib.request

import pytest
from support.ground import Ground
from support.waiting import wait_until

from taskqueue import AsyncClient
from taskqueue.monitor.store.reading import Record
from taskqueue.monitor.web import users
from taskqueue.monitor.web.rights import OPERATOR, Rights
from taskqueue.monitor.web.users import UserFile

POOL = "[DEFAULT]\nworkers: 0\n[remote]\nworkers: 2\n"


class Desk:
    """A monitor, and an operator of it."""

    def __init__(self, ground: Ground) -> None:
        self.ground, self.record = ground, ground.directory / "record"
        self.start()
        account, self.secret = users.token(Rights("eve", OPERATOR))
        UserFile(self.record / "users.json").add(account)

    def start(self) -> None:
        config = f"[monitor]\ndatabase: {self.record}\nuser: taskqueue-worker\nlisten: 127.0.0.1:0\n"
        self.daemon = self.ground.start("monitor", config, ready="INFO monitor: records")
        self.daemon.wait_for("serves at http")

    def cancel(self, *names: str) -> int:
        url = self.daemon.output().rpartition("serves at ")[2].split()[0]
        headers = {"Authorization": f"Bearer {self.secret}", "Content-Type": "application/json"}
        content = json.dumps({"ids": names}).encode()
        request = urllib.request.Request(f"{url}/api/v1/actions/cancel", content, headers)
        with urllib.request.urlopen(request, timeout=20) as answer:
            return int(json.load(answer)["count"])

    def state(self, name: str) -> str:
        with Record(self.record) as record:
            found = record.find(name)
        return found.workitem.state if found else ""

    def wait_for(self, name: str, state: str) -> None:
        wait_until(lambda: self.state(name) == state, 20, lambda: (state, self.state(name)))


@pytest.fixture
def desk(ground: Ground) -> Desk:
    desk = Desk(ground)
    ground.foreign.declare("worker_wait")  # without it, a call is rejected
    ground.start("dispatcher")
    return desk


def test_a_pool_that_starts_after_the_cancel_heeds_it(desk: Desk, ground: Ground) -> None:
    with AsyncClient(ground.url) as client:
        cancelled, other = client.wait(str(ground.directory / "no gate")), client.wait("/dev/null")
        for call in (cancelled, other):
            desk.wait_for(call.id, "queued")
        assert desk.cancel(cancelled.id) == 1
        ground.start("workerpool", POOL, ready="takes work")
        desk.wait_for(cancelled.id, "cancelled")
        desk.wait_for(other.id, "succeeded")


def test_a_cancel_is_kept_while_no_monitor_runs(desk: Desk, ground: Ground) -> None:
    with AsyncClient(ground.url) as client:
        call = client.wait(str(ground.directory / "no gate"))
        desk.wait_for(call.id, "queued")
        assert desk.cancel(call.id) == 1
        assert desk.daemon.stop() == 0
        ground.start("workerpool", POOL, ready="takes work")
        desk.start()
        desk.wait_for(call.id, "cancelled")


def test_only_cancels_of_what_is_not_over_are_sent_again(desk: Desk, ground: Ground) -> None:
    with AsyncClient(ground.url) as client:
        first = client.wait(str(ground.directory / "no gate"))
        desk.wait_for(first.id, "queued")
        assert desk.cancel(first.id) == 1
        pool = ground.start("workerpool", POOL, ready="takes work")
        desk.wait_for(first.id, "cancelled")
        assert pool.stop() == 0
        third = client.wait(str(ground.directory / "no gate"))
        desk.wait_for(third.id, "queued")
        assert desk.cancel(third.id) == 1
        ground.foreign.declare("taskqueue_cancel")
        ground.foreign.bind("taskqueue_cancel")
        ground.start("workerpool", POOL, ready="takes work")
        assert ground.foreign.get("taskqueue_cancel").properties["correlation_id"] == third.id
        assert ground.foreign.poll("taskqueue_cancel") is None
