"""The events of a dispatcher and a pool, as a client that shares no code with taskqueue receives them."""

import contextlib
import getpass
import json
import os
import re
import signal
import time
from importlib import metadata

import pytest
from support.processes import children, kill, tree
from support.site import consumer_of, consumers
from support.told import Record
from support.waiting import wait_until
from support.work import Result

from taskqueue.messages.events import (
    Begun,
    Cancelled,
    Ended,
    LogLine,
    ProcessState,
    Progress,
    Rejected,
    Routed,
)
from taskqueue.messages.relatives import Gone, Other
from taskqueue.monitor.store.item import CODE, Item
from taskqueue.monitor.store.reading import Record as Recorded
from taskqueue.monitor.store.store import Store
from taskqueue.monitor.web.plain import time_line


@pytest.fixture
def record(foreign):
    return Record(foreign)


def test_a_duplicate_is_cancelled_in_the_record_which_names_the_first_one(site, work, record):
    site.dispatcher("[good]\nworkers: 1")
    unique = ("--tenant", "acme", "--tag", "red", "--unique", "key", "--unique-for", "600")
    first, second = (
        site.run("submit", "--amqp", site.url, *unique, "good", "{}").stdout.strip() for _ in range(2)
    )
    (ended,) = record.wait_for(Ended, id=second)
    assert (ended.outcome, ended.state, ended.error) == ("cancelled", "cancelled", f"duplicate of {first}")
    assert (ended.worker_type, ended.tenant, ended.labels) == ("good", "acme", "red")
    record.wait_for(Routed, id=first)
    assert [event.id for event in record.events if isinstance(event, Routed)] == [first]


def test_a_debounced_workitem_is_in_the_record_while_it_waits(site, work, record):
    site.dispatcher("[good]\nworkers: 1")
    unique = ("--unique", "debounced", "--debounce", "2")
    id_ = site.run("submit", "--amqp", site.url, *unique, "good", "{}").stdout.strip()
    (routed,) = record.wait_for(Routed, id=id_)
    assert routed.due == pytest.approx(routed.at + 2, abs=0.1)
    item = Item("", id_)
    item.routed_by(routed)
    assert item.state == CODE["scheduled"]
    site.pool()
    record.wait_for(Ended, id=id_)
    assert [event for event in record.events if isinstance(event, Routed)] == [routed]


def test_a_workitem_is_followed_from_its_routing_to_its_end(site, work, record):
    site.dispatcher("[good]\nworkers: 1\nrecord_result: 100")
    site.pool()
    before = time.time()
    options = ("--tenant", "acme", "--tag", "red", "--label", "blue")
    submitted = site.run("submit", "--amqp", site.url, *options, "good", '{"n": 1}')
    (ended,) = record.wait_for(Ended, id=submitted.stdout.strip())
    (routed,) = record.wait_for(Routed, id=ended.id)
    assert routed[1:] == ("good", pytest.approx(time.time(), abs=30), 8, None, "acme", "red blue", '{"n": 1}')
    assert (ended.outcome, ended.state, ended.attempt) == ("succeeded", "succeeded", 1)
    assert (ended.tenant, ended.labels) == ("acme", "red blue")
    assert before - 1 < ended.queued <= ended.started <= ended.ended
    assert ended.content_type == "application/json"
    assert ended.size > 0
    kinds = {(batch.emitter.kind, batch.emitter.group) for batch in record.batches}
    assert kinds >= {("dispatcher", ""), ("consumer", "good")}
    record.assert_numbered()


def test_retries_failures_and_rejections_tell_why_and_what_follows(site, work, record):
    site.dispatcher(
        "[raising]\nworkers: 1\nretries: 1\nretry_delay: 0.3\nretry_jitter: 0\n[stubborn]\nworkers: 1"
    )
    site.pool()
    work.dispatch("raising", {"error": "ValueError"})
    first, second = record.wait_for(Ended, 2, worker_type="raising")
    assert (first.attempt, first.outcome, first.state) == (1, "failed", "retrying")
    assert first.again_at == pytest.approx(first.ended + 0.3, abs=0.2)
    assert (second.attempt, second.outcome, second.state) == (2, "failed", "failed")
    assert second.again_at is None
    assert "ValueError" in second.error
    assert second.traceback.startswith("Traceback")
    workitem = work.dispatch("stubborn", {"error": "Reject", "times": 1})
    (refused,) = record.wait_for(Ended, worker_type="stubborn")
    assert (refused.id, refused.outcome, refused.state) == (workitem, "rejected", "rejected")
    work.foreign.publish("{", message_id="unroutable")
    (rejected,) = record.wait_for(Rejected, id="unroutable")
    assert "JSON" in rejected.reason


def test_a_result_that_the_broker_refuses_is_recorded_as_a_failure(site, work, record):
    site.pool("[huge]\nworkers: 1")
    workitem = work.submit("huge", {"bytes": 17 * 1024 * 1024})
    first, second = record.wait_for(Ended, 2, id=workitem)
    assert (first.state, second.state) == ("succeeded", "failed")
    assert second.error.startswith("ResultRefused: the broker refused the result: ")
    assert second.ended > first.ended
    item = Item("", workitem)
    for event in (first, second):
        item.ended_by(event, "host", 1)
    assert (item.state, item.error) == (CODE["failed"], second.error)


def test_a_crash_is_recorded_with_its_cause_and_its_memory(site, work, record):
    site.pool("[segfaulting]\nworkers: 1\nmax_crashes: 1")
    workitem = work.submit("segfaulting")
    (ended,) = record.wait_for(Ended, id=workitem)
    assert (ended.outcome, ended.state) == ("crashed", "failed")
    (kept,) = work.foreign.collect("taskqueue_failed", 1)
    assert (
        ended.error
        == kept.headers["x-taskqueue-reason"]
        == ("WorkerCrashed: killed by SIGSEGV; 1 crash in all")
    )
    assert ended.peak_memory > 1_000_000


def test_a_long_run_tells_its_start_its_progress_and_its_output(site, work, record):
    site.pool("[gated]\nworkers: 1\ntimeout: 90")
    gates = {"gate": str(site.gate()), "middle": str(site.gate("middle"))}
    workitem = work.submit("gated", gates)
    (begun,) = record.wait_for(Begun, id=workitem)
    assert (begun.worker_type, begun.attempt, begun.timeout) == ("gated", 1, 90.0)
    assert begun.user == ("taskqueue-worker" if os.geteuid() == 0 else getpass.getuser())
    site.gate("middle").touch()
    (progress,) = record.wait_for(Progress, id=workitem)
    assert (progress.fraction, progress.text) == (0.5, "half way")
    (line,) = record.wait_for(LogLine, id=workitem)
    assert (line.level, line.text, line.worker) == ("INFO", "a line of output", begun.worker)
    site.gate().touch()
    record.wait_for(Ended, id=workitem)


def test_a_run_that_ends_at_once_with_its_consumer_is_told_when_the_workitem_comes_back(
    site, work, record, broker, tmp_path
):
    pool = site.pool("[gated]\nworkers: 1")
    workitem = work.submit("gated", {"gate": str(site.gate())})
    site.wait_for_run(workitem)
    kill(consumer_of(broker, "gated", consumers(pool)))
    (second,) = record.wait_for(Begun, id=workitem, redelivered=1)
    kill(consumer_of(broker, "gated", consumers(pool)))
    record.wait_for(Begun, 2, id=workitem, redelivered=1)
    site.gate().touch()
    record.wait_for(Ended, id=workitem, outcome="succeeded")
    with Store(tmp_path / "record") as store:
        store.write(list(enumerate(record.batches, 1)))
    with Recorded(tmp_path / "record") as recorded:
        found = recorded.find(workitem)
    lost = [run for run in found.runs if run.outcome == "lost"]
    assert (lost[-1].started, lost[-1].error) == (second.at, "its consumer was killed")
    assert "came back" in {each["what"] for each in time_line(found)} or len(lost) == 2


def test_a_cancelled_call_is_recorded(site, work, record):
    site.pool("[gated]\nworkers: 1")
    workitem = work.submit("gated", {"gate": str(site.gate())})
    site.wait_for_run(workitem)
    work.foreign.publish_to("taskqueue_cancel", "", b"", correlation_id=workitem)
    before = time.time()
    (cancelled,) = record.wait_for(Cancelled, id=workitem)
    assert cancelled.worker
    assert cancelled.started < before
    assert cancelled.started < cancelled.at


def test_what_a_group_redacts_is_in_no_event(site, work, record):
    site.dispatcher("[good]\nworkers: 1\nredact: password, pin")
    site.pool()
    for number, body in enumerate(
        (json.dumps({"user": "u", "password": "hunter2", "deep": [{"pin": [1234]}]}), "no JSON: hunter2")
    ):
        kind = "text/plain" if number else "application/json"
        work.foreign.publish(body, type="good", message_id=f"{number}", content_type=kind)
    record.wait_for(Routed, 2)
    heads = {event.id: event.head for event in record.wait_for(Routed, 2)}
    assert json.loads(heads["0"]) == {"user": "u", "password": "***", "deep": [{"pin": "***"}]}
    assert heads["1"] == ""


def test_the_daemons_tell_their_state_every_few_seconds(site, work, record):
    site.dispatcher("[good]\nworkers: 3")
    site.pool()
    states = record.wait_for(ProcessState, 2, state="takes work")
    assert {state.slots for state in states} == {3, 1000}
    assert all(state.rss > 10_000_000 and state.cpu > 0 for state in states)
    assert {state.user for state in states} == {"taskqueue" if os.geteuid() == 0 else getpass.getuser()}
    own = f"taskqueue {metadata.version('taskqueue')}"
    versions = {state.slots: state.version for state in states}
    assert versions[1000] == own
    assert re.fullmatch(rf"{re.escape(own)}, zoo [\d.]+", versions[3])
    assert {state.slots: state.prefetch for state in states} == {3: 3, 1000: 1000}


def test_processes_tell_of_their_supervisors_and_of_their_ends(site, record):
    dispatcher, pool = site.dispatcher("[good]\nworkers: 1\n[limit x]\nconcurrency: 1"), site.pool()
    daemons = {"dispatcher": dispatcher, "workerpool": pool}
    for name, daemon in daemons.items():
        (told, *_) = record.wait_for(Other, group=name)
        assert (told.kind, told.pid, told.state) == ("supervisor", daemon.pid, "keeps its processes running")
        assert told.rss > 5_000_000
        assert told.cpu > 0
    (killed,) = consumers(pool)
    os.kill(killed, signal.SIGKILL)
    (gone,) = record.wait_for(Gone, pid=killed)
    assert time.time() - 60 < gone.at < time.time()

    def emitters():
        record.update()
        return {batch.emitter.pid for batch in record.batches}

    wait_until(lambda: emitters() & set(consumers(pool)), 20, emitters)
    ended = set(consumers(pool)) | set(children(dispatcher.pid))
    assert pool.stop() == dispatcher.stop() == 0
    record.wait_for(ProcessState, len(ended), state="ended")
    last = {(batch.emitter.pid, type(event)): event for batch in record.batches for event in batch.events}
    states = {pid: event.state for (pid, kind), event in last.items() if kind is ProcessState}
    assert {pid for pid, state in states.items() if state == "ended"} == ended
    kinds = {batch.emitter.kind for batch in record.batches if batch.emitter.pid in ended}
    assert kinds == {"dispatcher", "scheduler", "keeper", "gate", "consumer"}
    assert {event.pid for (_, kind), event in last.items() if kind is Other and event.state == "ended"} == {
        *(pool.pid, dispatcher.pid),
    }


def test_a_consumer_tells_its_workers_and_their_crashes(site, work, record):
    pool = site.pool("[segfaulting]\nworkers: 2\nmax_crashes: 1")
    work.submit("segfaulting")
    (state, *_) = record.wait_for(ProcessState, crashes=1)
    assert state.crash == "killed by SIGSEGV"

    def told():
        record.update()
        last = [event for event in record.events if type(event) is ProcessState][-1]
        return {tuple(map(int, text.split(":"))) for text in last.workers.split()}

    wait_until(lambda: len(told()) == 2, 20, told)
    assert {number for number, _, _ in told()} == {1, 2}
    assert {pid for _, pid, _ in told()} <= set(tree(pool.pid))
    assert all(10_000_000 < rss < 1_000_000_000 for _, _, rss in told())


def test_after_kills_of_everything_each_result_has_its_event(site, work, record):
    """A copy that a killed dispatcher has published, but not acknowledged, has an id of its own."""
    dispatcher, pool = site.dispatcher("[good]\nworkers: 2"), site.pool()
    numbers = range(3000)
    for part in range(6):
        work.submit_numbers(numbers[part * 500 : part * 500 + 500])
        site.wait_for_ends(100 * part)
        for process in children(dispatcher.pid) + children(pool.pid):
            with contextlib.suppress(ProcessLookupError):  # a worker ends with its consumer
                os.kill(process, signal.SIGKILL)
    found, ids = set(), set()
    while not found.issuperset(numbers):
        result = work.result()
        found.add(result.number)
        ids.add(result.workitem)
    work.wait_until_empty("taskqueue", "worker_good")
    ids |= {Result(message).workitem for message in iter(lambda: work.foreign.poll("results"), None)}
    record.update()
    assert {event.id for event in record.events if type(event) is Ended} == ids
    assert len({event.id for event in record.events if type(event) is Routed}) >= len(numbers)
