"""The events of schedulers: what they are, and which ticks they leave out."""

import signal
import time

import pytest
from support.foreign import Foreign
from support.team import SECOND, Team, store
from support.told import Record
from support.waiting import wait_until

from taskqueue.messages.events import Ended, ProcessState
from taskqueue.schedules.definition import Definition

HOUR = 3600.0


@pytest.fixture
def record(foreign: Foreign) -> Record:
    return Record(foreign)


def test_each_scheduler_tells_whether_it_leads_or_waits_and_when_it_ends(team: Team, record: Record) -> None:
    leader, other = team.start(SECOND), team.start(SECOND, host="two")
    record.wait_for(ProcessState, state="leads 1 schedule")
    wait_until(lambda: states(record, other.pid)[-1:] == ["stands by"], 20, lambda: states(record, other.pid))
    leader.signal(signal.SIGTERM)
    wait_until(lambda: states(record, other.pid)[-1:] == ["leads 1 schedule"], 20)
    assert states(record, leader.pid)[-1] == "ended"
    assert {batch.emitter.kind for batch in record.batches} == {"scheduler"}


def states(record: Record, pid: int) -> list[str]:
    """Return the states that a process has told of itself."""
    record.update()
    return [
        event.state
        for batch in record.batches
        if batch.emitter.pid == pid
        for event in batch.events
        if isinstance(event, ProcessState)
    ]


def test_a_tick_that_is_left_out_for_overlap_is_told_as_cancelled(team: Team, record: Record) -> None:
    alone = Definition("alone", "good", every=1.0, overlap=False, tenant="acme", tags=("x",))
    team.start(alone)
    told = record.wait_for(Ended, 2)
    (first,) = team.take()
    tick, id_ = first.headers["x-taskqueue-tick"], first.properties["message_id"]
    assert [event.ended for event in told[:2]] == [tick + 1, tick + 2]
    assert {event.error for event in told} == {f"left out: {id_} is not over"}
    event = told[0]
    assert (event.state, event.worker_type, event.tenant, event.labels, event.started) == (
        *("cancelled", "good", "acme", "x schedule:alone", None),
    )
    assert id_ not in {each.id for each in told}, "the workitem that runs is another one"


@pytest.mark.parametrize(("policy", "number"), [("skip", 3), ("once", 2), ("all", 0)])
def test_missed_ticks_that_are_left_out_are_told(
    team: Team, record: Record, foreign: Foreign, policy: str, number: int
) -> None:
    offset = int(time.time() + HOUR / 2) % HOUR  # so that the next tick is in half an hour
    hourly = Definition("hourly", "good", every=HOUR, offset=offset, missed=policy)
    leave_missed(team, foreign, hourly, 3)
    team.start(host="later").wait_for("leads 1 schedule")
    record.wait_for(ProcessState, state="leads 1 schedule")
    told = [event for event in record.events if isinstance(event, Ended)]
    last = hourly.timing.next_after(time.time()) - HOUR
    assert [event.ended for event in told] == [last - 2 * HOUR, last - HOUR, last][:number]
    assert {event.error for event in told} <= {"left out: no scheduler ran when it was due"}


def test_of_very_many_missed_ticks_the_last_ones_are_told(
    team: Team, record: Record, foreign: Foreign
) -> None:
    leave_missed(team, foreign, SECOND, 86_400)
    team.start(host="later")
    record.wait_for(ProcessState, state="leads 1 schedule")
    assert len([event for event in record.events if isinstance(event, Ended)]) == 100


def leave_missed(team: Team, foreign: Foreign, definition: Definition, number: int) -> None:
    """Leave a register whose schedule has missed so many ticks, and no scheduler."""
    team.start().signal(signal.SIGTERM)
    wait_until(lambda: not foreign.consumers("taskqueue_schedules"))
    following = definition.timing.next_after(time.time())
    store(foreign, definition, following - (number + 1) * definition.every)
