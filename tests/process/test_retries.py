"""Workitems that are run again, or not, after their handler raised or their worker died."""

import json
import os
import re
import signal
import socket

import pytest
from support.processes import kill
from support.waiting import wait_until

QUICK = "retry_delay: 0.2\nretry_backoff: 1\nretry_jitter: 0"


def kept(work, queue="taskqueue_failed"):
    """Return the one message that is kept, and its history as (attempt, what, error)."""
    (message,) = work.foreign.collect(queue, 1)
    history = message.headers["x-taskqueue-history"]
    return message, [(entry["attempt"], entry["what"], entry["error"]) for entry in history]


def test_a_workitem_that_fails_twice_succeeds_at_its_third_run(site, work):
    pool = site.pool(f"[stubborn]\nworkers: 1\nretries: 3\n{QUICK}")
    workitem = work.submit("stubborn", {"error": "ValueError", "times": 2}, application_headers={"mine": 1})
    result = work.result()
    assert (result.workitem, result.status, result.value["attempt"]) == (workitem, "succeeded", 3)
    assert result.headers["x-taskqueue-attempt"] == 3
    assert "mine" in result.value["headers"]
    assert len(site.notes(workitem)) == 3
    pool.wait_for("retry in 0.2 s, attempt 2: ValueError: not yet 1 [group=stubborn worker=stubborn/1")
    assert work.foreign.poll("results") is None
    assert pool.stop() == 0
    assert work.foreign.depth("worker_stubborn") == 0
    assert work.foreign.depth("taskqueue_failed") is None


def test_a_workitem_whose_retries_are_used_up_is_kept_with_every_error(site, work):
    site.pool(f"[stubborn]\nworkers: 1\nretries: 2\n{QUICK}")
    work.submit("stubborn", {"error": "ValueError", "times": 9})
    result = work.result()
    assert (result.status, result.error) == ("failed", "ValueError: not yet 3")
    message, history = kept(work)
    assert history == [(attempt, "failed", f"ValueError: not yet {attempt}") for attempt in (1, 2, 3)]
    assert message.headers["x-taskqueue-failures"] == 2
    assert message.headers["x-taskqueue-reason"] == "ValueError: not yet 3"
    assert message.headers["x-taskqueue-queue"] == "worker_stubborn"
    assert "x-taskqueue-due" not in message.headers
    assert work.foreign.poll("results") is None


def test_without_retries_the_first_error_is_the_last(site, work):
    site.pool("[stubborn]\nworkers: 1")
    work.submit("stubborn", {"error": "ValueError", "times": 1})
    assert work.result().status == "failed"
    assert kept(work)[1] == [(1, "failed", "ValueError: not yet 1")]


def test_a_handler_that_raises_retry_is_run_again_after_its_own_delay(site, work):
    site.pool("[stubborn]\nworkers: 1\nretry_delay: 3600")
    workitem = work.submit("stubborn", {"error": "Retry", "times": 2, "delay": 0.4})
    result = work.result()
    assert (result.workitem, result.status, result.value["attempt"]) == (workitem, "succeeded", 3)


def test_a_delay_of_nothing_runs_again_at_once(site, work):
    site.pool("[stubborn]\nworkers: 1\nretry_delay: 3600")
    work.submit("stubborn", {"error": "Retry", "times": 1, "delay": 0})
    assert work.result().value["attempt"] == 2


def test_while_one_waits_for_its_retry_its_worker_does_other_work(site, work):
    pool = site.pool("[stubborn]\nworkers: 1\nretries: 1\nretry_delay: 3600")
    work.submit("stubborn", {"error": "ValueError", "times": 1})
    pool.wait_for("retry in")
    other = work.submit("stubborn", {"error": "ValueError", "times": 0})
    assert work.result().workitem == other
    delay_queues = [f"taskqueue_delay_{step}" for step in (900, 3600)]  # an hour, more or less
    wait_until(
        lambda: sum(work.foreign.depth(queue) or 0 for queue in delay_queues) == 1
    )  # once they are made


def test_a_handler_that_rejects_has_its_workitem_put_aside_with_the_reason(site, work):
    pool = site.pool(f"[stubborn]\nworkers: 1\nretries: 5\n{QUICK}")
    workitem = work.submit("stubborn", {"error": "Reject", "times": 9}, application_headers={"mine": 1})
    result = work.result()
    assert (result.workitem, result.status, result.error) == (workitem, "rejected", "Reject: not yet 1")
    message, history = kept(work, "taskqueue_rejected")
    assert message.properties["message_id"] == workitem
    assert history == [(1, "rejected", "Reject: not yet 1")]
    assert message.headers["x-taskqueue-reason"] == "Reject: not yet 1"
    assert message.headers["x-taskqueue-queue"] == "worker_stubborn"
    assert message.headers["mine"] == 1
    assert len(site.notes(workitem)) == 1
    assert pool.stop() == 0
    assert work.foreign.depth("worker_stubborn") == 0
    assert work.foreign.depth("taskqueue_failed") is None


def test_submit_tells_a_rejected_workitem_from_a_failed_one(site, work):
    site.dispatcher("[stubborn]\nworkers: 1")
    site.pool()
    body = json.dumps({"error": "Reject", "times": 9})
    config = ("--amqp", site.url)
    done = site.run("submit", "stubborn", body, "--wait", "--timeout", "20", "--format", "json", *config)
    assert (done.returncode, json.loads(done.stdout)["status"]) == (1, "rejected")


def test_each_crash_is_kept_with_its_cause(site, work):
    pool = site.pool("[segfaulting]\nworkers: 1")
    workitem = work.submit("segfaulting", None)
    assert work.result().error == "WorkerCrashed: killed by SIGSEGV; 3 crashes in all"
    message, history = kept(work)
    assert history == [(attempt, "crashed", "killed by SIGSEGV") for attempt in (1, 2, 3)]
    for entry in message.headers["x-taskqueue-history"]:
        assert (entry["host"], entry["worker"]) == (socket.gethostname(), "segfaulting/1")
        assert 1_000_000 < entry["peak_memory"] < 10**9
        assert entry["started"] <= entry["ended"]
    assert message.headers["x-taskqueue-crashes"] == 2
    assert "x-taskqueue-failures" not in message.headers
    assert len(site.notes(workitem)) == 3
    assert re.findall(r"crash \d, (?:retry in \d s|no further retry)", pool.output()) == [
        "crash 1, retry in 0 s",
        "crash 2, retry in 1 s",
        "crash 3, no further retry",
    ]


def test_crashes_and_failures_are_counted_apart(site, work):
    site.pool(
        f"[stubborn]\nworkers: 1\nretries: 1\nmax_crashes: 2\n{QUICK}\n[gated]\nworkers: 1\nmax_crashes: 2"
    )
    headers = {"x-taskqueue-crashes": 1, "x-taskqueue-attempt": 2}
    work.submit("stubborn", {"error": "ValueError", "times": 2}, application_headers=headers)
    assert work.result().value["attempt"] == 3  # its one retry, whatever crashed before
    headers = {"x-taskqueue-failures": 7, "x-taskqueue-attempt": 8}
    gated = work.submit("gated", {"gate": str(site.gate())}, application_headers=headers)
    kill(site.wait_for_run(gated).pid)
    site.wait_for_run(gated, times=2)
    site.gate().touch()
    assert work.result().value["attempt"] == 9


def test_a_killed_worker_names_the_signal_and_the_next_run_goes_on_counting(site, work):
    site.pool("[gated]\nworkers: 1\nmax_crashes: 2")
    workitem = work.submit("gated", {"gate": str(site.gate())})
    for number, times in ((signal.SIGTERM, 1), (signal.SIGKILL, 2)):
        os.kill(site.wait_for_run(workitem, times=times).pid, number)
    assert work.result().error == "WorkerCrashed: killed by SIGKILL; 2 crashes in all"
    assert kept(work)[1] == [(1, "crashed", "killed by SIGTERM"), (2, "crashed", "killed by SIGKILL")]


@pytest.mark.parametrize("depth", [1, 5])
def test_retries_lose_and_double_nothing(site, work, depth):
    pool = site.pool(f"[stubborn]\nworkers: 2\nretries: 2\nmax_prefetch: {depth}\n{QUICK}")
    items = {work.submit("stubborn", {"error": "ValueError", "times": number % 3}) for number in range(60)}
    results = work.results(60)
    assert set(results) == items
    assert {result.status for result in results.values()} == {"succeeded"}
    wait_until(lambda: work.foreign.depth("taskqueue_delay_0.25") == 0)
    assert work.foreign.poll("results") is None
    assert len(site.notes()) == 20 * (1 + 2 + 3)
    assert pool.stop() == 0
    assert work.foreign.depth("worker_stubborn") == 0
