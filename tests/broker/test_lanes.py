"""The order of a type with lanes, counted by the order in which workers begin workitems."""

import shlex
from collections import Counter
from collections.abc import Iterable
from functools import partial
from itertools import count

import pytest
from support.documentation import commands, example
from support.ground import Ground
from support.node import Node
from support.processes import children, command, kill, run_cli
from support.waiting import wait_until

from taskqueue.messages.lanes import lanes_of

WORKERS = 2
ALONE = "[DEFAULT]\nworkers: 0\n"  # no other type has workers
CONFIG = f"{ALONE}[evaluate]\nworkers: {WORKERS}\nlanes: 16\nweights: heavy 3\nreport_results: no\n"
TENANT = "x-taskqueue-tenant"


class Race:
    """Workitems that note that they begin; the workers are held until all are queued."""

    def __init__(self, ground: Ground, node: Node) -> None:
        self.ground, self.foreign = ground, ground.foreign
        self.to_route = partial(node.messages, ground.url.rpartition("/")[2], "taskqueue")
        self.notes = ground.open / "notes"
        self.gate = ground.open / "gate"
        self.foreign.declare("taskqueue")

    def note(self, word: str) -> str:
        """Return the body of a workitem that notes a word."""
        return f"open({str(self.notes)!r}, 'a').write({word + chr(10)!r})"

    def lasting_note(self, word: str) -> str:
        """Return the body of a workitem that notes a word and takes longer than a message to the broker."""
        return f"({self.note(word)}, __import__('time').sleep(0.1))"

    def submit(
        self, word: str, number: int, *, tenant: str = "", priority: int = 0, is_lasting: bool = False
    ) -> None:
        """Have a number of workitems routed."""
        body = self.lasting_note(word) if is_lasting else self.note(word)
        self.submit_all([body] * number, tenant=tenant, priority=priority)
        wait_until(lambda: not self.to_route(), what="everything to be routed")

    def submit_all(self, bodies: Iterable[str], *, tenant: str, priority: int) -> None:
        """Submit a workitem for each body."""
        headers = {TENANT: tenant} if tenant else {}
        self.foreign.publish_many(
            bodies,
            type="evaluate",
            content_type="text/plain",
            priority=priority,
            application_headers=headers,
        )

    def hold(self) -> None:
        """Occupy all workers until `release`."""
        is_open = f"lambda: __import__('os').path.exists({str(self.gate)!r})"
        sleeps = f"[__import__('time').sleep(0.01) for _ in iter({is_open}, True)]"
        waiting = f"({self.note('held')}, {sleeps})"
        for _ in range(WORKERS):
            self.foreign.publish(waiting, type="evaluate", content_type="text/plain")
        wait_until(lambda: self.begun == ["held"] * WORKERS, what="the workers to be held")

    def release(self) -> None:
        self.gate.touch()

    @property
    def begun(self) -> list[str]:
        """The words of the workitems in the order in which they began."""
        return self.notes.read_text().split() if self.notes.exists() else []

    def wait(self, number: int) -> list[str]:
        """Wait for a number of workitems; return the words, in order, without those of held ones."""
        wait_until(lambda: len(self.begun) >= number + WORKERS, 120, f"{number} workitems")
        return self.begun[WORKERS:]


@pytest.fixture
def race(ground: Ground, session_broker: Node) -> Race:
    ground.start("dispatcher", CONFIG)
    ground.start("workerpool", CONFIG).wait_for("takes work")
    race = Race(ground, session_broker)
    race.hold()
    return race


def test_a_tenant_with_few_workitems_does_not_wait_for_one_with_many(race: Race) -> None:
    race.submit("many", 5000, tenant="many")
    race.submit("few", 100, tenant="few")
    race.release()
    order = race.wait(5100)
    last = max(place for place, word in enumerate(order) if word == "few")
    assert order[:last].count("many") < 150
    assert Counter(order) == {"many": 5000, "few": 100}


def test_a_tenant_in_the_lane_of_one_with_many_workitems_gets_another_lane(race: Race) -> None:
    lane, other = lanes_of(0, "many", 16)
    same = (f"few{number}" for number in count())
    few = next(name for name in same if lanes_of(0, name, 16)[0] == lane != other != lanes_of(0, name, 16)[1])
    race.submit("many", 1000, tenant="many")
    race.submit("few", 50, tenant=few)
    race.release()
    order = race.wait(1050)
    last = max(place for place, word in enumerate(order) if word == "few")
    assert order[:last].count("many") < 100


def test_shares_of_the_workers_follow_the_weights(race: Race) -> None:
    race.submit("light", 6000, tenant="light")
    race.submit("heavy", 6000, tenant="heavy")
    race.release()
    # Until its workitems are known to be short, a lane has sent too few of them to choose from.
    shares = Counter(race.wait(12_000)[1000:7000])
    assert 0.95 * 4500 < shares["heavy"] < 1.05 * 4500


@pytest.mark.parametrize("tenant", ["many", "other"])
def test_priority_9_behind_many_of_priority_0_starts_within_two_workitems_a_worker(
    race: Race, tenant: str
) -> None:
    race.submit("many", 5000, tenant="many", is_lasting=True)
    race.submit("urgent", 1, tenant=tenant, priority=9)
    race.release()
    begun = wait_until(lambda: race.begun if "urgent" in race.begun else None, 60, "the urgent workitem")
    assert begun.index("urgent") <= WORKERS + 2 * WORKERS  # those that were held come first


def test_the_example_of_the_documentation(ground: Ground) -> None:
    config = example("docs/limits.md", "lanes = 16")
    ground.start("dispatcher", config)
    ground.start("workerpool", config).wait_for("takes work")
    for typed in commands(example("docs/limits.md", "taskqueue submit echo '\"for acme\"'")):
        name, *arguments = shlex.split(typed)
        assert name == "taskqueue"
        assert run_cli(*arguments, "--amqp", ground.url).returncode == 0
    results = [ground.foreign.get("results") for _ in range(2)]
    assert {each.body for each in results} == {b"for acme", b"at once"}
    (table,) = [
        line.split()
        for line in run_cli("config", "-c", ground.write(config), env=ground.environment).stdout.splitlines()
        if line.split()[:2] == ["echo", "16"]
    ]
    assert table == ["echo", "16", "300", "acme", "3,", "example", "1"]


# --- lanes that are unknown, gone, or fewer ---


def lanes_in_use(ground: Ground) -> list[int]:
    """Return which lanes have messages."""
    return [n for n in range(16) if ground.foreign.depth(f"worker_evaluate:{n}")]


@pytest.mark.parametrize("lanes", ["4", "none"])
def test_fewer_lanes_strand_nothing(ground: Ground, session_broker: Node, lanes: str) -> None:
    ground.start("dispatcher", CONFIG)
    pool = ground.start("workerpool", CONFIG)
    pool.wait_for("takes work")
    race = Race(ground, session_broker)
    race.hold()
    for number in range(40):
        race.submit(f"w{number}", 3, tenant=f"t{number}", priority=number % 10)
    pool.kill()
    race.release()
    wait_until(lambda: len(lanes_in_use(ground)) > 8, what="what the pool had received to come back")
    ground.start("workerpool", CONFIG.replace("16", lanes)).wait_for("takes work")
    wait_until(lambda: len(set(race.begun)) == 41, 60, "all workitems")
    race.submit("late", 1, tenant="late", priority=9)  # by the dispatcher that knows more lanes
    wait_until(lambda: "late" in race.begun)
    assert not lanes_in_use(ground)


def test_a_dispatcher_that_knows_of_lanes_that_nobody_has_uses_the_types_queue(
    ground: Ground, session_broker: Node
) -> None:
    ground.start("dispatcher", CONFIG)
    ground.start("workerpool", f"{ALONE}[evaluate]\nworkers: 2").wait_for("takes work")
    race = Race(ground, session_broker)
    race.submit("w", 50, tenant="acme", priority=9)
    wait_until(lambda: len(race.begun) == 50, 30)
    assert ground.foreign.depth("worker_evaluate:0") is None


def test_a_dispatcher_that_knows_no_lanes_uses_the_types_queue_which_is_consumed(
    ground: Ground, session_broker: Node
) -> None:
    ground.start("dispatcher")
    ground.start("workerpool", CONFIG).wait_for("takes work")
    race = Race(ground, session_broker)
    race.submit("w", 50, tenant="acme", priority=9)
    wait_until(lambda: len(race.begun) == 50, 30)


def test_killed_consumers_and_dispatchers_lose_nothing(ground: Ground, session_broker: Node) -> None:
    dispatcher = ground.start("dispatcher", CONFIG)
    pool = ground.start("workerpool", CONFIG)
    pool.wait_for("takes work")
    race = Race(ground, session_broker)
    words = [f"w{number}" for number in range(2000)]
    for part in range(4):
        for number in range(part, 20, 4):
            race.submit_all(map(race.note, words[number::20]), tenant=f"t{number}", priority=number % 10)
        wait_until(lambda seen=100 * part: len(race.begun) > seen, 60)
        for daemon, child in ((dispatcher, "dispatcher 1"), (pool, "consumer of evaluate")):
            kill(wait_until(partial(find, daemon.pid, child), what=child))
    wait_until(lambda: set(race.begun) == set(words), 90, lambda: len(set(race.begun)))


def find(parent: int, title: str) -> int | None:
    """Return the child of a process with this title."""
    return next((pid for pid in children(parent) if title in command(pid)), None)


# --- the priority on its way ---


def test_a_priority_is_kept_by_retries_and_dead_letters(ground: Ground) -> None:
    config = f"{CONFIG}retries: 1\nretry_delay: 0.1\n"
    ground.start("dispatcher", config)
    ground.start("workerpool", config).wait_for("takes work")
    ground.foreign.publish("1/0", type="evaluate", content_type="text/plain", priority=7)
    failed = ground.foreign.get("taskqueue_failed")
    assert failed.properties["priority"] == 7
