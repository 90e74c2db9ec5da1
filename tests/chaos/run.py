"""One run of the suite: submit, inflict, wait until all is done, and balance the account."""

import time
from collections.abc import Callable

from chaos.account import Account, Evidence, balance
from chaos.ends import take_ends
from chaos.faults import Hit, inflict
from chaos.plant import END_QUEUES, Plant
from chaos.producer import Producer
from chaos.schedule import PRODUCER, Fault
from chaos.workload import Workitem

MOST_AHEAD = 1000  # workitems that are submitted and not done, before the next fault
# Seconds: what goes from a rung to its next queue is in no queue's count until that has it, and a broker that
# was killed sends it again after one to two (support/node.py).
QUIET = 4.0
STUCK_TIMEOUT = 120.0  # seconds without any workitem coming to an end

Tell = Callable[[int, str], None]  # hears how many faults are over, and what happens


def run(
    plant: Plant, workitems: list[Workitem], faults: list[Fault], tell: Tell
) -> tuple[Account, list[Hit]]:
    """Run everything to its end; AssertionError where something hangs, or ends that should not.

    The workitems are submitted in step with the faults, so that every fault hits a loaded plant.
    """
    plant.start()
    producer = Producer(plant.lines[PRODUCER].url, workitems)
    producer.start()
    try:
        hits = []
        for fault in faults:
            producer.allow(len(workitems) * fault.number // len(faults))
            _wait_for_room(plant, producer)
            plant.pass_time(fault.pause)
            tell(fault.number - 1, str(fault))
            hits.append(inflict(plant, fault))
        tell(len(faults), "what is left is done")
        _finish(plant, producer, len(workitems))
    finally:
        producer.allow(-1)
    return _balance(plant, producer, workitems, hits), hits


def _wait_for_room(plant: Plant, producer: Producer) -> None:
    _wait_for_progress(plant, lambda: producer.confirmed - plant.ended() <= MOST_AHEAD)


def _finish(plant: Plant, producer: Producer, number: int) -> None:
    """Wait until everything is submitted, and nothing is on its way any more; then stop the daemons."""
    _wait_for_progress(plant, lambda: producer.confirmed == number)
    while not _is_quiet(plant):
        _wait_for_progress(plant, lambda: plant.left() == 0)
    _wait_for_progress(plant, lambda: all(service.is_ready for service in plant.services.values()))
    plant.stop()


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


def _balance(plant: Plant, producer: Producer, workitems: list[Workitem], hits: list[Hit]) -> Account:
    outputs = plant.outputs()
    assert "Traceback" not in outputs, outputs[max(0, outputs.index("Traceback") - 2000) :][:6000]
    ends = [end for queue in END_QUEUES for end in take_ends(plant.foreign, queue)]
    return balance(Evidence(workitems, producer.began, producer.doubtful, hits, plant.taps, ends))
