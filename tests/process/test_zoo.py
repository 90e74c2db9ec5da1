"""Badly behaved plugins: what they do is charged to their own workitem, and is known by name."""

import re
from pathlib import Path

import pytest
from support.processes import exists, kill
from support.site import workers
from support.waiting import wait_until

MEBIBYTE = 1024 * 1024


def failure(site, work, worker_type, body, sections=""):
    """Return the failure of a workitem and the pool, which must still work."""
    pool = site.pool(f"[{worker_type}]\nworkers: 1\nmax_crashes: 1\n{sections}\n[good]\nworkers: 1")
    workitem = work.submit(worker_type, body)
    result = work.result()
    assert (result.workitem, result.status) == (workitem, "failed"), result
    assert work.ask("good", "still there")["echo"] == "still there"
    return result, pool


@pytest.mark.parametrize("error", ["ValueError", "KeyboardInterrupt"])
def test_one_that_raises_makes_a_failure(site, work, error):
    result, pool = failure(site, work, "raising", {"error": error})
    assert result.error == f"{error}: as it was asked to"
    assert "in handle_task" in result.value["error"]["traceback"]
    assert result.value["workitem"] == {"error": error}
    assert "ended:" not in pool.output()  # nobody had to die for it


def test_one_that_calls_sys_exit_makes_a_failure(site, work):
    result, pool = failure(site, work, "exiting", {"how": "sys.exit", "status": 3})
    assert result.error == "SystemExit: 3"
    assert "ended:" not in pool.output()


def test_one_that_leaves_by_os_exit_is_a_crash_with_that_status(site, work):
    result, _ = failure(site, work, "exiting", {"how": "os._exit", "status": 3})
    assert result.error == "WorkerCrashed: exit status 3; 1 crash in all"


def test_one_that_leaves_with_status_0_is_a_crash_too(site, work):
    result, _ = failure(site, work, "exiting", {"how": "os._exit", "status": 0})
    assert result.error == "WorkerCrashed: exit status 0; 1 crash in all"


def test_one_that_retires_before_it_has_done_anything_is_replaced_ever_later(site, work):
    pool = site.pool("[weary]\nworkers: 1\n[good]\nworkers: 1", ready="the next one starts in 0.5 s")
    assert "killing worker: unexpected frame RETIRING" in pool.output()
    assert work.ask("good", "still there")["echo"] == "still there"


def test_one_that_segfaults_is_a_crash_with_that_signal(site, work):
    result, pool = failure(site, work, "segfaulting", None)
    assert result.error == "WorkerCrashed: killed by SIGSEGV; 1 crash in all"
    pool.wait_for("worker segfaulting/1, process")


def test_a_forked_child_that_comes_back_is_no_worker(site, work):
    pool = site.pool("[forking]\nworkers: 1")
    first = work.ask("forking", {"child": "returns"})
    second = work.ask("forking", {"child": "returns"})
    assert workers(pool) == {first["parent"]} == {second["parent"]}
    assert work.foreign.poll("results") is None


def test_a_forked_child_that_stays_dies_with_its_worker(site, work):
    pool = site.pool("[forking]\nworkers: 1")
    value = work.ask("forking", {"child": "stays"})
    assert exists(value["child"])
    assert pool.stop() == 0
    pool.assert_nothing_left()


@pytest.mark.parametrize("kind", ["daemon", "classic daemon"])
def test_a_daemon_that_a_handler_leaves_ends_with_the_pool_and_is_told_of(site, work, kind):
    pool = site.pool("[forking]\nworkers: 2")
    left = [work.ask("forking", {"child": kind}) for _ in range(2)]
    daemons = {each["child"] for each in left}
    for parent in {each["parent"] for each in left}:
        kill(parent)
        wait_until(lambda parent=parent: not Path(f"/proc/{parent}").exists())
    pool.wait_for("the next one starts")
    work.ask("forking", {"child": "returns"})
    assert all(map(exists, daemons))
    assert pool.stop() == 0
    assert not any(map(exists, daemons))
    assert "killed 2 processes left behind by plugins" in pool.output()


def test_a_daemon_that_ends_by_itself_is_no_worker_and_stays_no_zombie(site, work):
    pool = site.pool("[forking]\nworkers: 1")
    daemon = work.ask("forking", {"child": "daemon"})["child"]
    kill(daemon)
    wait_until(lambda: not Path(f"/proc/{daemon}").exists())
    assert work.ask("forking", {"child": "returns"})["parent"] in workers(pool)
    assert pool.stop() == 0
    assert "left behind" not in pool.output()
    assert "ended:" not in pool.output()


def test_a_flood_of_lines_is_logged_at_a_bounded_rate(site, work):
    pool = site.pool("[flooding]\nworkers: 1\noutput_rate: 50")
    workitem = work.submit("flooding", {"lines": 20_000})
    assert work.result().value == b"afloat"
    pool.wait_for("lines dropped: more than 50 a second")
    logged = re.findall(r".* flood \d+ .*", pool.output())
    assert 50 <= len(logged) < 1000
    for context in ("group=flooding", "worker=flooding/1", f"workitem={workitem}"):
        assert context in logged[0]


def test_a_line_that_never_ends_is_cut_up(site, work):
    pool = site.pool("[flooding]\nworkers: 1\noutput_rate: 10")
    work.submit("flooding", {"bytes": 10 * MEBIBYTE})
    assert work.result().value == b"afloat"
    pool.wait_for("~~~")
    assert max(map(len, pool.output().splitlines())) < 10_000
    assert len(pool.output()) < MEBIBYTE


def test_one_that_eats_all_its_memory_makes_a_failure(site, work):
    result, _ = failure(site, work, "hungry", {"limit": 400 * MEBIBYTE})
    assert result.error.startswith("MemoryError")


@pytest.mark.parametrize("kind", ["set", "object", "nan", "circle"])
def test_a_value_that_json_cannot_express_makes_a_failure(site, work, kind):
    result, _ = failure(site, work, "inexpressible", {"kind": kind})
    assert result.error.startswith("ResultUnwritable: handle_task returned a ")


def test_a_result_larger_than_the_broker_allows_makes_a_failure(site, work):
    result, pool = failure(site, work, "huge", {"bytes": 17 * MEBIBYTE})
    assert result.error.startswith("ResultRefused: the broker refused the result: ")
    assert pool.stop() == 0
    assert work.foreign.depth("worker_huge") == 0


def test_a_result_larger_than_any_frame_makes_a_failure(site, work):
    result, pool = failure(site, work, "huge", {"bytes": 170 * MEBIBYTE})
    assert result.error.startswith(f"ResultUnwritable: the result has {170 * MEBIBYTE} bytes; at most ")
    assert "ended:" not in pool.output()


GARBAGE = {
    "noise": "frame of unknown kind 255",
    "an endless frame": "OUTCOME frame of 4294967295 bytes",
    "a forged outcome": "outcome of task ",
    "ready again": "unexpected frame READY",
    "no time": "OUTCOME frame with invalid times: nan, nan, delay nan",
    "an endless delay": "OUTCOME frame with invalid times: 0.0, 0.0, delay inf",
    "an endless error": "OUTCOME frame with an error of 12000000 bytes",
    "endless progress": "PROGRESS frame of 12000016 bytes",
}


@pytest.mark.parametrize("garbage", GARBAGE)
def test_one_that_writes_garbage_to_its_consumer_is_killed_and_its_workitem_says_why(site, work, garbage):
    result, pool = failure(site, work, "babbling", {"garbage": garbage})
    assert result.error.startswith(f"WorkerCrashed: killed by SIGKILL: {GARBAGE[garbage]}")
    assert result.error.endswith("; 1 crash in all")
    pool.wait_for(f"killing worker: {GARBAGE[garbage]}")
    wait_until(lambda: len(workers(pool)) == 2)
    assert "consumer of" not in pool.output()  # it lives on


def test_one_that_closes_its_socket_and_lives_on_is_killed(site, work):
    result, pool = failure(site, work, "departing", {})
    fault = "it closed its connection to the consumer and did not end"
    assert result.error == f"WorkerCrashed: killed by SIGKILL: {fault}; 1 crash in all"
    pool.wait_for(f"killing worker: {fault}")


@pytest.mark.parametrize("opens", ["nothing", "files", "sockets"])
@pytest.mark.parametrize("first", [0, 3])
def test_one_that_closes_all_files_is_a_crash_with_that_cause_and_no_bug_of_ours(site, work, first, opens):
    result, pool = failure(site, work, "departing", {"first": first, "opens": opens})
    cause = "its plugin closed the connection to the consumer (exit status 76)"
    assert result.error == f"WorkerCrashed: {cause}; 1 crash in all"
    pool.wait_for(f"ended: {cause}")
    assert "Traceback" not in pool.output()
    assert "internal error" not in pool.output()


def test_one_that_names_another_plugins_worker_type_gets_nothing_of_it(site, work):
    pool = site.pool("[usurping]\nworkers: 1\n[good]\nworkers: 1", ready="killing worker")
    pool.wait_for("it may not serve worker type 'good', which belongs to plugin 'good'")
    for number in range(40):
        assert work.ask("good", number)["echo"] == number
    assert work.foreign.depth("worker_usurping") is None
    assert pool.stop() == 0


def test_one_that_names_more_worker_types_than_there_are_channels_stops_nobody(site, work):
    pool = site.pool("[swarming]\nworkers: 1\n[good]\nworkers: 1", ready="takes work")
    pool.wait_for("killing worker: READY frame with 3000 worker types; the maximum is 1000")
    assert work.ask("good", 1)["echo"] == 1
    assert pool.stop() == 0


@pytest.mark.parametrize("streams", ["None", "an object"])
def test_one_that_replaces_its_standard_streams_has_a_result(site, work, streams):
    pool = site.pool("[undressed]\nworkers: 1\nmax_crashes: 1")
    assert [work.ask("undressed", streams) for _ in range(2)] == [b"in spite of that"] * 2
    assert "ended:" not in pool.output()
    assert pool.stop() == 0


def test_the_workers_of_one_that_cannot_start_show_why_once_and_then_say_it_in_a_line(site):
    pool = site.pool("[unimportable]\nworkers: 3", ready="cannot start: ")
    pool.wait_for("cannot start: plugin 'unimportable' cannot be imported: RuntimeError: ", times=6)
    assert pool.output().count("Traceback") == 1
    traceback = [line for line in pool.output().splitlines() if "zoo_unimportable.py" in line]
    assert traceback
    assert all(" ERROR consumer: |" in line for line in traceback)


@pytest.mark.parametrize(
    ("animal", "reason"),
    [
        ("unready", "plugin 'unready' cannot be set up: ConnectionRefusedError: its database is down"),
        ("unimportable", "plugin 'unimportable' cannot be imported: RuntimeError: this module is broken"),
        ("impostor", "plugin 'impostor' returned a str, expected a BaseWorker"),
    ],
)
def test_one_that_cannot_start_says_why_and_stops_nobody(site, work, animal, reason):
    waiting = work.submit(animal, "for better times")
    pool = site.pool(f"[{animal}]\nworkers: 1\n[good]\nworkers: 1", ready="takes work")
    pool.wait_for(f"cannot start: {reason}")
    assert work.ask("good", "me")["echo"] == "me"
    assert pool.stop() == 0
    assert work.foreign.poll(f"worker_{animal}").properties["message_id"] == waiting
