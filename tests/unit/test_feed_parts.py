"""The parts of a feed that need no broker."""

import json
import os
import pickle
import sys
import threading
import time
from collections import Counter

import pytest
from support.waiting import wait_until

from taskqueue.errors import (
    AlreadyRunning,
    ConfigError,
    JobUnwritable,
    StateError,
    TargetError,
    WorkitemUnreadable,
)
from taskqueue.feed.books import Books
from taskqueue.feed.chunk_worker import _performer
from taskqueue.feed.chunker import Pace
from taskqueue.feed.chunks import ChunkName, Outbox, as_numbers, chunk_id
from taskqueue.feed.codec import JsonCodec, PickleCodec
from taskqueue.feed.frontier import Frontier
from taskqueue.feed.receipt import JobFailure, Receipt, Report, failures
from taskqueue.feed.source import Source, skip
from taskqueue.feed.state import FailureLog, Identity, Pass, State, StateFile, recorded
from taskqueue.feed.target import Target, call, takes_last, worker_type

KEY = b"0123456789abcdef"


# --- how jobs travel ---


@pytest.mark.parametrize(
    "jobs", [[1, 2.5, "ä\ud800", None, True], [[1, [2]], {"a": {"b": None}}], [2**80, -0.0], [{}, [], ""]]
)
def test_jobs_arrive_as_they_were_sent_or_not_at_all(jobs):
    assert JsonCodec().decode(JsonCodec().encode(jobs)) == jobs
    assert PickleCodec(KEY, "feed_a").decode(PickleCodec(KEY, "feed_a").encode(jobs)) == jobs


@pytest.mark.parametrize(
    ("job", "said"),
    [
        ((1, 2), "it would arrive as [1,2]"),
        ({1: "a"}, 'it would arrive as {"1":"a"}'),
        (float("nan"), "not JSON compliant"),
        ({1, 2}, "Object of type set is not JSON serializable"),
        (b"x", "Object of type bytes is not JSON serializable"),
    ],
)
def test_what_json_would_change_names_the_option_that_would_not(job, said):
    with pytest.raises(JobUnwritable) as error:
        JsonCodec().encode([7, job, 8])
    assert said in str(error.value)
    assert "use --pickle" in str(error.value)


def test_nothing_is_unpickled_that_was_changed_or_signed_for_something_else():
    body = PickleCodec(KEY, "feed_a").encode([1, 2])
    for codec, changed in [
        (PickleCodec(KEY, "feed_b"), body),
        (PickleCodec(KEY[::-1], "feed_a"), body),
        (PickleCodec(KEY, "feed_a"), body[:40] + bytes([body[40] ^ 1]) + body[41:]),
        (PickleCodec(KEY, "feed_a"), pickle.dumps([1, 2])),
        (PickleCodec(KEY, "feed_a"), b""),
    ]:
        with pytest.raises(WorkitemUnreadable, match="not signed with this key"):
            codec.decode(changed)


def test_a_key_that_is_too_short_is_refused():
    with pytest.raises(ConfigError, match="expected 16 bytes or more, found 5"):
        PickleCodec(b"short", "feed_a")


# --- targets ---


def test_a_target_is_a_module_or_a_file_with_a_function_or_without(tmp_path, monkeypatch):
    (tmp_path / "trial_jobs.py").write_text(
        "def get_jobs(last=0): yield 'jobs'\ndef other(): yield 'other'\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    targets = {"trial_jobs": "jobs", "trial_jobs.py": "jobs"}
    targets |= {"./trial_jobs.py:other": "other", "trial_jobs:other": "other"}
    for text, yields in targets.items():
        target = Target.parse(text, "get_jobs")
        assert list(target.load()()) == [yields]
        assert worker_type(target.module) == "feed_trial_jobs"
    del sys.modules["trial_jobs"]


def test_a_file_with_the_name_of_a_module_in_use_is_refused(tmp_path):
    (tmp_path / "json.py").write_text("")
    with pytest.raises(TargetError, match="a module 'json' is in use already"):
        Target.parse(str(tmp_path / "json.py"), "get_jobs").load()


def test_only_a_parameter_of_that_name_takes_last():
    assert takes_last(lambda last=0: last)
    assert takes_last(lambda *, last: last)
    assert not takes_last(lambda **others: others)
    assert not takes_last(lambda first: first)
    assert not takes_last(range)


def test_arguments_and_jobs_that_do_not_fit_are_told():
    with pytest.raises(
        TargetError, match="get_jobs cannot be called with a, b: missing a required argument: 'c'"
    ):
        call(lambda a, b, c: (a, b, c), {"a": "1", "b": "2"})
    with pytest.raises(TargetError, match="get_jobs returned a int, expected something to iterate over"):
        call(lambda: 5, {})


# --- the state file ---


@pytest.fixture
def file(tmp_path):
    with StateFile(tmp_path / "a.state") as file:
        yield file


IDENTITY = Identity("a.py:get_jobs", {"k": "v"}, "application/json")


def test_a_state_is_read_as_it_was_written(file):
    assert file.read(IDENTITY) is None
    state = State(IDENTITY, "f00", 3, Pass("jobs", Frontier(5, [(7, 9)]), 5, {"x": 1}), Pass("again3"), 2, 80)
    file.write(state)
    again = file.read(IDENTITY)
    assert again.plain() == state.plain()
    assert again.jobs.frontier.islands == [(7, 9)]
    assert [path.name for path in file.path.parent.iterdir()] == ["a.state", "a.state.lock"]


@pytest.mark.parametrize("kind", ["link", "FIFO"])
def test_a_state_is_written_into_nothing_that_others_have_put_in_its_way(file, tmp_path, kind):
    victim, new = tmp_path / "victim", tmp_path / "a.state.new"
    victim.write_text("precious")
    new.symlink_to(victim) if kind == "link" else os.mkfifo(new)
    file.write(State(IDENTITY))
    assert file.read(IDENTITY).identity == IDENTITY
    assert victim.read_text() == "precious"


def test_any_byte_that_is_changed_or_missing_is_damage(file):
    file.write(State(IDENTITY, jobs=Pass("jobs", Frontier(50, [(70, 90)]), 50, 50)))
    good = file.path.read_bytes()
    for at in range(0, len(good), 7):
        for changed in (good[:at], good[:at] + bytes([good[at] ^ 4]) + good[at + 1 :]):
            file.path.write_bytes(changed)
            with pytest.raises(StateError, match=r"is damaged, or none of a feed|is another feed's"):
                file.read(IDENTITY)


@pytest.mark.parametrize("content", ["", "null", "[]", "{}", "\0" * 100, "[" * 100_000])
def test_what_is_no_state_is_refused(file, content):
    file.path.write_text(content)
    with pytest.raises(StateError):
        file.read(IDENTITY)


def test_the_state_has_one_writer(file, forked):
    def second():
        try:
            StateFile(file.path).__enter__()
        except AlreadyRunning:
            return 73

    assert forked(second).wait() == 73


def test_failures_that_no_state_knows_of_are_taken_back(tmp_path):
    path = tmp_path / "failed"
    with FailureLog(path, 0) as log:
        log.append({"index": 1, "job": "a"})
        size = log.sync()
        log.append({"index": 2, "job": "b"})
    with FailureLog(path, size) as log:
        log.append({"index": 3, "job": "c"})
    assert [entry["index"] for entry in recorded(path)] == [1, 3]
    path.write_text('{"index": 1, "job": 2}\n{"index":\n')
    with pytest.raises(StateError, match=f"{path}, line 2"):
        list(recorded(path))


def test_a_file_of_failures_without_any_is_removed(tmp_path):
    path = tmp_path / "failed"
    with FailureLog(path, 0):
        assert path.exists()
    assert not path.exists()
    path.write_text('{"index": 1, "job": "a"}\n')
    with FailureLog(path, path.stat().st_size):
        pass
    assert [entry["index"] for entry in recorded(path)] == [1]


# --- chunks and receipts ---


def test_a_chunks_id_tells_which_jobs_it_has_where_they_follow_each_other():
    assert ChunkName.parse(chunk_id("0ab", 2, 7, "jobs", range(10, 30))) == ChunkName(
        "0ab", 2, "jobs", range(10, 30)
    )
    assert ChunkName.parse(chunk_id("0ab", 2, 7, "again", (1, 5))).numbers == range(0)
    assert ChunkName.parse("feed-0ab-2-7-jobs-10") is None
    assert ChunkName.parse("") is None
    assert as_numbers([4, 5, 6]) == range(4, 7)
    assert as_numbers([4, 6]) == (4, 6)


def test_a_receipt_tells_each_failure_and_each_traceback_once():
    receipt = Receipt(1)
    for position in range(300):
        try:
            json.loads(f"bad {position}")
        except ValueError as error:
            receipt.fail(position, error)
    plain = json.loads(json.dumps(receipt.plain()))
    assert len(plain["traces"]) == 1
    told = list(failures(plain, 1000))
    assert [failure.position for failure in told] == list(range(300))
    assert told[299].error.startswith("JSONDecodeError: Expecting value")
    assert "in raw_decode" in told[299].traceback


# --- pace ---


def test_a_chunk_grows_until_it_takes_half_a_second():
    pace, lengths = Pace(100_000, 100_000), []
    for _ in range(40):
        lengths.append(pace.length)
        pace.note("a", 1, pace.length, pace.length * 0.002)
    assert lengths[:9] == [1, 2, 4, 8, 16, 32, 64, 128, 250]
    assert lengths[-1] in (249, 250)  # jobs of 2 ms


def test_a_chunk_stays_within_the_size_the_maximum_and_what_is_easily_carried():
    for size, most, job_bytes, expected in [
        (600, 10_000, 10, 120),
        (10_000, 50, 10, 50),
        (10_000, 10_000, 10_000, 104),
    ]:
        pace = Pace(size, most)
        for number in range(40):
            pace.encoded(1, job_bytes)
            pace.note(f"worker {number % 2}", 1, pace.length, 1e-6 * pace.length)
        assert (pace.length, pace.workers) == (expected, 2)
        assert pace.length * pace.chunks <= size


def test_jobs_that_take_no_time_travel_in_few_long_chunks_however_many_workers_there_are():
    pace = Pace(10_000, 10_000, 40)
    for job_time, chunks in [(1e-7, 5), (20e-6, 20), (1e-3, 81)]:
        for number in range(400):
            pace.note(f"worker {number % 40}", 1, pace.length, job_time * pace.length)
        assert abs(pace.chunks - chunks) <= 1


def test_workers_with_threads_get_a_job_for_each_of_them():
    pace = Pace(10_000, 10_000)
    for _ in range(20):
        pace.note("a", 16, pace.length, 3.0)  # each job takes 3 s, however many there are
    assert pace.length == 16


def test_only_workers_that_were_not_heard_of_for_long_are_forgotten(monkeypatch):
    pace, now = Pace(10_000, 10_000), [100.0]
    monkeypatch.setattr("taskqueue.feed.chunker.time.monotonic", lambda: now[0])
    pace.note("gone", 1, 1, 0.1)
    now[0] += 6
    pace.note("there", 1, 1, 0.1)
    pace.forget()
    assert pace.workers == 2
    now[0] += 6
    pace.forget()
    assert pace.workers == 1
    now[0] += 6
    pace.forget()
    assert pace.workers == 0


def test_more_chunks_are_let_out_to_workers_that_were_never_heard_of():
    pace = Pace(10_000, 10_000)
    for _ in range(5):
        pace.note("a", 1, 1, 60.0)
    before = pace.chunks
    pace.starve()
    pace.note("a", 1, 1, 60.0)
    assert pace.chunks >= before + 4


# --- the source ---


def drain(source, number):
    found = []
    wait_until(lambda: found.extend(source.take(50, 20)) or len(found) >= number or source.is_empty)
    return found


def in_thread(function):
    threading.Thread(target=function, daemon=True).start()


def test_jobs_come_in_order_and_no_more_are_drawn_than_wanted():
    drawn = Counter()

    def jobs(first):
        for number in range(first, 400):
            drawn["jobs"] += 1
            yield number

    source = Source(lambda first: (jobs(first), None), in_thread)
    source.start(3, 20)
    wait_until(lambda: len(source) >= 20)
    time.sleep(0.05)  # long enough to draw them all
    assert drawn["jobs"] <= 22
    assert drain(source, 397) == list(range(3, 400))
    source.close()


def test_what_the_iterator_raises_is_kept_for_who_asks():
    def jobs():
        yield 1
        raise KeyError("gone")

    source = Source(lambda _: (jobs(), 2), in_thread)
    source.start(0, 10)
    assert drain(source, 2) == [1]
    assert (repr(source.error), source.total, source.is_empty) == ("KeyError('gone')", 2, True)


def test_jobs_can_be_taken_while_the_next_one_is_waited_for():
    gate = threading.Event()

    def jobs():
        yield from range(5)
        gate.wait()

    source = Source(lambda _: (jobs(), None), in_thread)
    source.start(0, 100)
    assert drain(source, 5) == [0, 1, 2, 3, 4]
    assert not source.has_ended
    gate.set()
    wait_until(lambda: source.is_empty)


def test_skipping_leaves_out_the_first_ones():
    assert list(skip(range(5), 0)) == [0, 1, 2, 3, 4]
    assert list(skip(iter(range(5)), 3)) == [3, 4]


# --- the books ---


@pytest.fixture
def books(file):
    """The books of the third start of a feed whose jobs that failed are being fed again."""
    state = State(IDENTITY, "f00", 3, Pass(), Pass("again2"))
    codec = JsonCodec()
    books = Books(state, state.again, file, codec, Outbox(codec))
    yield state, books
    books.close()


def honour(books, name, numbers, *, failed=(), status="succeeded"):
    failures = tuple(JobFailure(position, "ValueError", "no", "") for position in failed)
    error = None if status == "succeeded" else {"type": "ValueError", "message": "no"}
    books.honour(ChunkName.parse(chunk_id(*name, numbers)), Report(error, failures=failures))


def test_receipts_of_earlier_starts_are_honoured_for_the_pass_they_are_of(books):
    state, books = books
    honour(books, ("f00", 1, 1, "jobs"), range(10), failed=[3])
    honour(books, ("f00", 2, 1, "again2"), range(2))
    assert (state.jobs.frontier.end, state.jobs.frontier.islands) == (3, [(4, 10)])
    assert state.again.frontier.end == 2


def test_no_other_receipt_is_honoured(books):
    state, books = books
    honour(books, ("f00", 1, 1, "again1"), range(10))  # of a pass that is over
    honour(books, ("f0f", 1, 1, "jobs"), range(10))  # of another feed, or of this one before it was reset
    honour(books, ("f00", 3, 1, "jobs"), range(10))  # of this start: it came twice
    honour(books, ("f00", 1, 1, "jobs"), range(10), status="failed")
    honour(books, ("f00", 1, 1, "jobs"), (1, 3))  # which cannot be told from the id
    assert (len(state.jobs.frontier), len(state.again.frontier)) == (0, 0)


def test_a_function_that_only_returns_a_coroutine_has_not_handled_its_jobs():
    async def handle(job):
        return job

    receipt = Receipt(1)
    _performer(lambda job: handle(job), 1)([1, 2], receipt)  # noqa: PLW0108 -- no async def itself
    assert [failure.type for failure in failures(receipt.plain(), 10)] == ["TypeError", "TypeError"]
