"""One run of the suite: submit, inflict, wait until all is done, and balance the account."""

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from support.waiting import wait_until

from chaos import flows
from chaos.account import Account, Evidence, balance
from chaos.ends import take_ends
from chaos.faults import Hit, inflict
from chaos.flows import Started
from chaos.plant import END_QUEUES, Plant
from chaos.producer import Producer
from chaos.schedule import PRODUCER, Fault
from chaos.ticks import due
from chaos.workload import HELD, LIMIT, Workitem, held
from taskqueue.messages.events import ENDED, Emitter
from taskqueue.monitor.store.reading import Record

MOST_AHEAD = 1000  # workitems that are submitted and not done, before the next fault
# Seconds: what goes from a delay queue to its next queue is in no queue's count until that has it, and a
# broker that was killed sends it again after one to two (support/node.py).
QUIET = 4.0
RECORD_TIMEOUT = 60.0  # seconds until the monitor has recorded what was published last
STUCK_TIMEOUT = 120.0  # seconds without any workitem coming to an end

Tell = Callable[[int, str], None]  # hears how many faults are over, and what happens


def run(
    plant: Plant, workitems: list[Workitem], faults: list[Fault], tell: Tell, *, seed: int = 1
) -> tuple[Account, list[Hit]]:
    """Run everything to its end; AssertionError where something hangs, or ends that should not.

    The workitems are submitted in step with the faults, so that every fault hits a loaded plant; workflows
    are started beside them.
    """
    plant.start()
    last = held(len(workitems))
    producer = Producer(plant.lines[PRODUCER].url, [*workitems, *last])
    started = flows.workflows(seed, len(workitems), plant.notes)
    starter = Producer(plant.lines[PRODUCER].url, started)
    producer.start()
    starter.start()
    try:
        hits = []
        for fault in faults:
            producer.allow(len(workitems) * fault.number // len(faults))
            starter.allow(len(started) * fault.number // len(faults))
            _wait_for_room(plant, producer)
            plant.pass_time(fault.pause)
            tell(fault.number - 1, str(fault))
            hits.append(inflict(plant, fault))
        tell(len(faults), "what is left is done")
        _wait_for_progress(plant, lambda: starter.confirmed == len(started))
        register, faulty = _finish(plant, producer, len(workitems), started)
    finally:
        producer.allow(-1)
        starter.allow(-1)
    account = _balance(plant, producer, [*workitems, *last], register, hits)
    account.wrong += faulty
    account.workflows, account.steps = len(started), flows.runs_by_number(plant.notes)
    return account, hits


def _wait_for_room(plant: Plant, producer: Producer) -> None:
    _wait_for_progress(plant, lambda: producer.confirmed - plant.ended() <= MOST_AHEAD)


def _finish(
    plant: Plant, producer: Producer, number: int, started: list[Started]
) -> tuple[list[dict[str, Any]], list[str]]:
    """Wait until everything is submitted, and nothing is on its way any more; then stop the daemons.

    Return what the register says of each schedule, and the faults of workflows.
    """
    _wait_for_progress(plant, lambda: producer.confirmed == number)
    _wait_for_progress(plant, lambda: not plant.is_ordered)
    register = plant.pause_schedules()
    _await_quiet(plant)
    _use_limit(plant, producer, number)
    _await_quiet(plant)
    _await_free_keys(plant)
    faulty = _await_workflows(plant, started)
    _wait_for_progress(plant, lambda: all(service.is_ready for service in plant.services.values()))
    assert not plant.is_ordered, "a type is paused, a host drained, or a group scaled still"
    plant.stop()
    return register, faulty


def _await_workflows(plant: Plant, started: list[Started]) -> list[str]:
    """Wait for the end of all workflows; return their faults."""
    left: list[str] = []

    def have_ended() -> bool:
        plant.keep()
        left[:] = flows.left(plant.url, started)
        return not left

    with suppress(AssertionError):  # its faults are told below
        wait_until(have_ended, STUCK_TIMEOUT, lambda: f"the end of the workflows {left}")
    return [*flows.faults(plant.url, started, plant.notes), *(f"workflow {each}: no end" for each in left)]


def _use_limit(plant: Plant, producer: Producer, number: int) -> None:
    """Have as many limited workitems run at once as may; fail if a fault has left less room than that."""
    producer.allow(number + 2 * LIMIT)
    _wait_for_progress(plant, lambda: _holding(plant) >= LIMIT)
    plant.slots.gate.touch()


def _holding(plant: Plant) -> int:
    return sum(word == HELD.name for _, _, word in plant.slots.notes)


def _await_free_keys(plant: Plant) -> None:
    def is_none_in_use() -> bool:
        plant.keep()
        return not plant.keys()

    wait_until(is_none_in_use, STUCK_TIMEOUT, lambda: f"the end of the keys {plant.keys()}")


def _await_quiet(plant: Plant) -> None:
    while not _is_quiet(plant):
        _wait_for_progress(plant, lambda: plant.left() == 0)


def _is_quiet(plant: Plant) -> bool:
    """Tell whether nothing is on its way, and nothing turns up for a while."""
    ended = plant.ended()
    if plant.left():
        return False
    plant.pass_time(QUIET)
    return plant.left() == 0 and plant.ended() == ended


def _wait_for_progress(plant: Plant, condition: Callable[[], bool]) -> None:
    """Wait for a condition as long as workitems come to an end."""
    ended, since = plant.ended(), time.monotonic()
    while not condition():
        plant.pass_time(0.1)
        if (now := plant.ended()) != ended:
            ended, since = now, time.monotonic()
        assert time.monotonic() - since < STUCK_TIMEOUT, (
            f"{ended} ends, {plant.left()} on their way, and nothing moves"
        )


def _compare_record(plant: Plant, account: Account, workitems: list[Workitem]) -> None:
    """Enter into the account whatever the monitor's record says otherwise, once it has caught up."""
    expected = {each.id: each.kind.state if each.kind.worker_type else "rejected" for each in workitems}
    with Record(plant.record) as record:

        def differences() -> list[str]:
            found = {id_: record.find(id_) for id_ in expected}
            seen = {id_: "not" if each is None else each.workitem.state for id_, each in found.items()}
            for id_, state in seen.items():
                if state == expected[id_]:
                    del expected[id_]
            return [f"{id_}: {seen[id_]} in the record, expected {state}" for id_, state in expected.items()]

        with suppress(AssertionError):  # what still differs is told below
            wait_until(lambda: not differences(), RECORD_TIMEOUT)
        account.record += differences()
        killed = _killed(record)
        gaps = [gap for gap in record.gaps() if gap.emitter not in killed]
        account.record += [f"missed {gap.missed} events of {gap.emitter}" for gap in gaps]
    plant.stop_monitor()


def _killed(record: Record) -> set[Emitter]:
    """Return the emitters that ended without their last event.

    Batches that the broker had not confirmed are gone with them, perhaps after later ones were confirmed. The
    workitems in them came back, and their events are another emitter's.
    """
    emitters = [row.emitter for row in record.emitters() if row.state != ENDED]
    return {each for each in emitters if not Path(f"/proc/{each.pid}").exists()}


def _balance(
    plant: Plant,
    producer: Producer,
    workitems: list[Workitem],
    register: list[dict[str, Any]],
    hits: list[Hit],
) -> Account:
    outputs = plant.outputs()
    assert "Traceback" not in outputs, outputs[max(0, outputs.index("Traceback") - 2000) :][:6000]
    ends = [end for queue in END_QUEUES for end in take_ends(plant.foreign, queue)]
    ticks = due(register, ends)
    submitted = producer.began | {tick.id: at for tick, at in ticks.items()}
    workitems = [*workitems, *ticks]
    account = balance(Evidence(workitems, submitted, producer.doubtful, hits, plant.taps, ends))
    _count_at_once(plant, account)
    account.commands = plant.commands
    _compare_record(plant, account, workitems)
    return account


def _count_at_once(plant: Plant, account: Account) -> None:
    account.at_once = plant.slots.most
    if account.at_once > LIMIT:
        account.wrong.append(f"{account.at_once} limited workitems ran at once, of {LIMIT}")
