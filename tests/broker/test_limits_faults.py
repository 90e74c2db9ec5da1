"""Processes that limits depend on are killed under work: never more than the limit run, and then as many."""

import os
import signal
from collections.abc import Callable

import pytest
from support.ground import Ground
from support.node import Node
from support.processes import Daemon, children, command, exists, kill
from support.slots import Slots, listed, most_starts
from support.waiting import wait_until

LIMIT = 3
HEARTBEAT = 4  # seconds; the broker gives up a frozen process after two of them
GROUP = "[DEFAULT]\nworkers: 0\n[evaluate]\nworkers: 3\nlimits: three\nreport_results: no\n"


class Scene(Slots):
    """Two dispatchers and two pools at work on a limited type."""

    def __init__(self, ground: Ground, limit: str = f"[limit three]\nconcurrency: {LIMIT}\n") -> None:
        super().__init__(ground)
        amqp = f"[amqp]\nurl: {ground.url}\nheartbeat: {HEARTBEAT}\n"
        self.config = amqp + limit + GROUP
        self.dispatchers = [self.start_dispatcher() for _ in range(2)]
        self.pools = [self.start_pool() for _ in range(2)]

    def start_dispatcher(self) -> Daemon:
        return self.ground.start("dispatcher", self.config, url="")

    def start_pool(self) -> Daemon:
        return self.ground.start("workerpool", self.config, url="", ready="takes work [group=evaluate]")

    @property
    def is_waiting(self) -> bool:
        limit = listed(self.ground)["three"]
        return bool(limit["in_use"] + limit["waiting"])

    @property
    def has_new_leader(self) -> bool:
        """Whether both gates have led."""
        return all("leads 1 limit" in each.output() for each in self.dispatchers)

    def gates(self) -> list[int]:
        """Return the processes of the gates."""
        return self.children(self.dispatchers, "taskqueue: gate")

    def children(self, daemons: list[Daemon], title: str) -> list[int]:
        return [pid for each in daemons for pid in children(each.pid) if command(pid).startswith(title)]

    def wait_for_more(self, number: int) -> None:
        """Wait until so many more have begun."""
        goal = self.begun + number
        wait_until(lambda: self.begun >= goal, 90, "more workitems to begin")

    def assert_full_use(self) -> None:
        """Fail unless the limit was kept all the time, and as many as it allows still run at once."""
        assert self.most == LIMIT
        before = len(self.notes)
        self.submit(2 * LIMIT, seconds=600, word="held")
        wait_until(lambda: len(self.held) >= LIMIT, 90, "as many as the limit to run")
        self.gate.touch()
        wait_until(lambda: len(self.held) >= 2 * LIMIT, 30)
        assert self.most == LIMIT
        assert len(self.notes) > before

    @property
    def held(self) -> list[int]:
        return [slot for _, slot, word in self.notes if word == "held"]


@pytest.fixture
def scene(ground: Ground) -> Scene:
    return Scene(ground)


def kill_gate(scene: Scene) -> None:
    """Kill the gate that leads, or else the one that stands by."""
    kill(scene.gates()[0])
    scene.dispatchers.reverse()


def kill_consumer(scene: Scene) -> None:
    kill(scene.children(scene.pools, "taskqueue: consumer of evaluate")[0])
    scene.pools.reverse()


def kill_worker(scene: Scene) -> None:
    kill(scene.children(scene.pools, "taskqueue: worker evaluate/")[0])
    scene.pools.reverse()


def kill_pool(scene: Scene) -> None:
    """Kill a supervisor, with which its processes end."""
    scene.pools.pop(0).kill()
    scene.pools.append(scene.start_pool())


@pytest.mark.parametrize(
    ("fault", "times"), [(kill_gate, 6), (kill_consumer, 4), (kill_worker, 6), (kill_pool, 2)]
)
def test_the_limit_holds_under_kills(scene: Scene, fault: Callable[[Scene], None], times: int) -> None:
    scene.submit(2000, seconds=0.03)
    scene.wait_for_more(30)
    for _ in range(times):
        fault(scene)
        scene.wait_for_more(30)
    scene.foreign.purge("worker_evaluate")
    scene.assert_full_use()


def test_limited_runs_end_without_a_gate_and_come_again_with_one(scene: Scene) -> None:
    scene.submit(LIMIT, seconds=600)
    wait_until(lambda: scene.begun == LIMIT)
    for dispatcher in scene.dispatchers:
        dispatcher.kill()
    said = "no gate for 45 s: limited workitems are stopped, and run again later"
    wait_until(lambda: any(said in pool.output() for pool in scene.pools), 75)
    wait_until(lambda: not scene.is_used, what="the end of the runs")
    assert scene.begun == LIMIT
    scene.dispatchers = [scene.start_dispatcher()]
    wait_until(lambda: scene.begun == 2 * LIMIT, 30)
    assert scene.most == LIMIT


def freeze_consumer(scene: Scene) -> None:
    freeze(scene.children(scene.pools, "taskqueue: consumer of evaluate")[0])


def freeze_gate(scene: Scene) -> None:
    leader = next(each for each in scene.dispatchers if "leads 1 limit" in each.output())
    freeze(scene.children([leader], "taskqueue: gate")[0])


def freeze(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("freezes", [freeze_consumer, freeze_gate])
def test_the_limit_holds_while_a_process_is_frozen(scene: Scene, freezes: Callable[[Scene], None]) -> None:
    """A frozen consumer is killed before the gate takes it for dead; a gate loses its connection."""
    scene.submit(LIMIT, seconds=600)
    wait_until(lambda: scene.begun == LIMIT)
    scene.submit(LIMIT, seconds=600)
    freezes(scene)
    left = scene.gates() + scene.children(scene.pools, "taskqueue: consumer of evaluate")
    wait_until(lambda: len([each for each in left if exists(each)]) < len(left) or scene.has_new_leader, 100)
    scene.foreign.purge("worker_evaluate")
    for each in filter(exists, left):
        os.kill(each, signal.SIGCONT)
    scene.gate.touch()
    wait_until(lambda: not scene.is_used and not scene.is_waiting, 30)
    scene.gate.unlink()
    scene.assert_full_use()


def test_the_rate_holds_while_gates_are_killed(ground: Ground) -> None:
    scene = Scene(ground, "[limit three]\nrate: 10 per 2s\n")
    scene.submit(60)
    for _ in range(4):
        scene.wait_for_more(10)
        kill_gate(scene)
    wait_until(lambda: scene.begun == 60, 60)
    assert most_starts([at for at, _, _ in scene.notes], 2.0) <= 10


def test_the_limit_holds_while_the_broker_restarts(scene: Scene, session_broker: Node) -> None:
    scene.submit(400, seconds=0.05)
    scene.wait_for_more(30)
    session_broker.kill_settled()
    session_broker.start()
    scene.wait_for_more(100)
    scene.assert_full_use()
