"""Limits over the whole cluster, counted outside of taskqueue: how many run at once, how many start."""

import shlex
import signal
from pathlib import Path

import pytest
from support.documentation import commands, example
from support.ground import Ground
from support.processes import Daemon, run_cli
from support.slots import Slots, listed, most_starts
from support.waiting import wait_until

TENANT = "x-taskqueue-tenant"


def group(limits: str, workers: int = 4) -> str:
    return f"[DEFAULT]\nworkers: 0\n[evaluate]\nworkers: {workers}\nlimits: {limits}\nreport_results: no\n"


THREE = f"[limit three]\nconcurrency: 3\n{group('three')}"


def start(ground: Ground, config: str, pools: int = 2) -> Daemon:
    """Start a dispatcher that leads the gates, and pools; return the dispatcher."""
    dispatcher = ground.start("dispatcher", config)
    for _ in range(pools):
        ground.start("workerpool", config, ready="takes work [group=evaluate]")
    dispatcher.wait_for(f"leads {config.count('[limit ')} limit")
    return dispatcher


@pytest.fixture
def slots(ground: Ground) -> Slots:
    return Slots(ground)


def test_the_example_of_the_documentation(ground: Ground) -> None:
    config = example("docs/limits.md", "[limit shopify-api]")
    ground.start("dispatcher", config).wait_for("leads 1 limit")
    ground.start("workerpool", f"[DEFAULT]\nworkers: 0\n{config}").wait_for("takes work [group=echo]")
    submit, show = commands(example("docs/limits.md", "taskqueue limit list"))
    assert run(ground, submit) == "an order\n"
    title, columns, row = run(ground, show).splitlines()
    assert (title, columns.split()[:2], row.split()[0]) == ("Limits", ["limit", "for"], "shopify-api")


def run(ground: Ground, line: str) -> str:
    done = run_cli(*shlex.split(line)[1:], env={"TASKQUEUE_AMQP": ground.url})
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_no_more_than_the_limit_run_at_once_over_two_pools(slots: Slots) -> None:
    start(slots.ground, THREE)
    slots.submit(100, seconds=0.02)
    wait_until(lambda: slots.begun == 100, 60)
    assert slots.most == 3


def test_no_period_has_more_starts_than_the_rate(slots: Slots) -> None:
    start(slots.ground, f"[limit some]\nrate: 5 per 1s\n{group('some')}")
    slots.submit(40)
    wait_until(lambda: slots.begun == 40, 60)
    times = [at for at, _, _ in slots.notes]
    assert most_starts(times, 1.0) <= 5
    assert max(times) - min(times) < 15, "it is not much slower, either"


def test_each_tenant_has_a_limit_of_its_own(slots: Slots) -> None:
    start(slots.ground, f"[limit one]\nconcurrency: 1\n{group('one by tenant')}")
    for tenant in ("a", "b", "x" * 10_000, "\x1b[31m'"):
        slots.submit(2, seconds=600, word=tenant[-1], **{TENANT: tenant})
    wait_until(lambda: slots.begun == 4, 30)

    def use() -> list[tuple[int, int]]:
        return [(key["in_use"], key["waiting"]) for key in listed(slots.ground)["one"]["keys"]]

    wait_until(lambda: use() == [(1, 1)] * 4)
    assert sorted(word for _, _, word in slots.notes) == sorted("abx'")
    slots.gate.touch()
    wait_until(lambda: slots.begun == 8, 30)


def test_lanes_say_who_takes_a_permit(slots: Slots) -> None:
    config = f"[limit one]\nconcurrency: 1\n{group('one')}lanes: 16\n"
    start(slots.ground, config, pools=1)
    slots.submit(1, seconds=600, word="first")
    wait_until(lambda: slots.begun == 1)
    slots.submit(30, word="many", priority=0, **{TENANT: "many"})
    slots.submit(1, word="few", priority=0, **{TENANT: "few"})
    slots.submit(1, word="urgent", priority=9, **{TENANT: "many"})
    wait_until(lambda: listed(slots.ground)["one"]["waiting"] >= 5)
    slots.gate.touch()
    wait_until(lambda: slots.begun == 33, 30)
    order = [word for _, _, word in slots.notes]
    assert order.index("urgent") <= 2
    assert order.index("few") <= 6


def test_a_workitem_may_need_two_limits(slots: Slots) -> None:
    limits = "[limit two]\nconcurrency: 2\n[limit one]\nconcurrency: 1\n"
    start(slots.ground, limits + group("two, one by tenant"))
    for tenant in "abc":
        slots.submit(10, seconds=0.02, word=tenant, **{TENANT: tenant})
    wait_until(lambda: slots.begun == 30, 60)
    assert slots.most == 2


def test_types_without_limits_do_not_wait(slots: Slots) -> None:
    start(slots.ground, f"{THREE}[echo]\nworkers: 1\n", pools=1)
    slots.submit(20, seconds=600)
    wait_until(lambda: slots.begun == 3)
    assert run(slots.ground, "taskqueue submit echo 1 --wait") == "1\n"
    slots.gate.touch()
    wait_until(lambda: slots.begun == 20)


def test_a_reload_changes_a_limit_while_workitems_run(slots: Slots) -> None:
    ground = slots.ground
    path = Path(ground.write(THREE))
    dispatcher = ground.start_command("dispatcher", "-f", "-c", str(path), ready="leads 1 limit")
    ground.start("workerpool", THREE, ready="takes work [group=evaluate]")
    ground.start("workerpool", THREE, ready="takes work [group=evaluate]")
    slots.submit(3, seconds=600, word="first")
    wait_until(lambda: slots.begun == 3)
    path.write_text(THREE.replace("concurrency: 3", "concurrency: 5"))
    dispatcher.signal(signal.SIGHUP)
    slots.submit(7, seconds=600, word="second")
    wait_until(lambda: slots.begun == 5)
    path.write_text(THREE.replace("concurrency: 3", "concurrency: 1"))
    dispatcher.signal(signal.SIGHUP)
    dispatcher.wait_for("leads 1 limit", times=3)
    wait_until(lambda: listed(ground)["three"]["in_use"] == 5)
    slots.gate.touch()
    wait_until(lambda: slots.begun == 10)
    assert slots.most == 5


def test_the_list_shows_what_is_in_use_and_who_holds_it(slots: Slots) -> None:
    start(slots.ground, THREE, pools=1)
    slots.submit(4, seconds=600)
    wait_until(lambda: listed(slots.ground)["three"]["waiting"] == 1)

    def holders() -> list[dict]:
        (key,) = listed(slots.ground)["three"]["keys"]
        return [each for each in key["holders"] if each["workitem"] and each["since"]]

    wait_until(lambda: len(holders()) == 3)
    assert {each["group"] for each in holders()} == {"evaluate"}
    shown = run(slots.ground, "taskqueue limit list").splitlines()
    assert shown[2].split()[:5] == ["three", "3", "of", "3", "1"]
    assert shown[2].count("evaluate on ") == 3
    slots.gate.touch()
    wait_until(lambda: not listed(slots.ground)["three"]["in_use"])
    assert not listed(slots.ground)["three"]["waiting"]


def test_the_list_names_the_limit_of_workitems_without_a_tenant(slots: Slots) -> None:
    start(slots.ground, f"[limit some]\nconcurrency: 1\n{group('some by tenant')}", pools=1)
    slots.submit(1, seconds=600)
    wait_until(lambda: listed(slots.ground)["some"]["in_use"] == 1)
    row = run(slots.ground, "taskqueue limit list").splitlines()[2]
    assert row.split()[:6] == ["some", "no", "tenant", "1", "of", "1"]
    slots.gate.touch()


def test_events_say_what_waits_for_which_limit_and_which_gate_leads(slots: Slots) -> None:
    foreign = slots.foreign
    foreign.declare("taskqueue_events")
    foreign.bind("taskqueue_events")
    start(slots.ground, THREE, pools=1)
    slots.submit(4, seconds=600)
    wanted = {b"\tgate\t": b"\tleads 1 limit", b"\tevaluate\t": b"\ttakes work; 1 waits for limit three\t"}

    def is_said() -> bool:
        batch = foreign.poll("taskqueue_events")
        for emitter, state in [*wanted.items()] if batch is not None else ():
            if emitter in bytes(batch.body) and state in bytes(batch.body):
                del wanted[emitter]
        return not wanted

    wait_until(is_said, 20)


def test_without_a_gate_nothing_limited_starts(slots: Slots) -> None:
    ground = slots.ground
    dispatcher = ground.start("dispatcher")
    pool = ground.start("workerpool", THREE, ready="takes work [group=evaluate]")
    slots.submit(3)
    pool.wait_for("limited workitems wait: no gate answers; does a dispatcher run?")
    assert not slots.begun
    done = run_cli("limit", "list", env={"TASKQUEUE_AMQP": ground.url})
    assert done.returncode == 69
    assert done.stderr == "taskqueue: no gate has run on this broker yet: start a dispatcher\n"
    dispatcher.stop()
    ground.start("dispatcher", THREE)
    wait_until(lambda: slots.begun == 3, 30)


def test_a_waiting_workitem_can_be_cancelled_and_a_pool_ends_while_one_waits(slots: Slots) -> None:
    ground = slots.ground
    ground.start("dispatcher", THREE)
    pool = ground.start("workerpool", THREE, ready="takes work [group=evaluate]")
    slots.submit(3, seconds=600)
    wait_until(lambda: slots.begun == 3)
    slots.submit(1)
    wait_until(lambda: listed(ground)["three"]["waiting"] == 1)
    slots.gate.touch()
    pool.stop()
    wait_until(lambda: listed(ground)["three"]["in_use"] == 0)
    assert slots.begun + ground.foreign.depth("worker_evaluate") == 4
