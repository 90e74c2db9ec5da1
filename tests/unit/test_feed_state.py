"""The files of a feed, and the books that are saved in them."""

import os
from contextlib import closing

import pytest

from taskqueue.errors import (
    AlreadyRunning,
    StateError,
)
from taskqueue.feed.chunker import Outbox
from taskqueue.feed.receipts import Books
from taskqueue.feed.state import FailureLog, Frontier, Identity, Pass, State, StateFile, recorded
from taskqueue.feed.wire import ChunkName, JsonCodec, Report, chunk_id
from taskqueue.messages.results import Failure


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
    assert again.jobs.frontier.intervals == [(7, 9)]
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
            with pytest.raises(
                StateError, match=r"is damaged, or is not the state of a feed|belongs to another feed"
            ):
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
    with closing(FailureLog(path, 0)) as log:
        log.append({"index": 1, "job": "a"})
        size = log.sync()
        log.append({"index": 2, "job": "b"})
    with closing(FailureLog(path, size)) as log:
        log.append({"index": 3, "job": "c"})
    assert [entry["index"] for entry in recorded(path)] == [1, 3]
    path.write_text('{"index": 1, "job": 2}\n{"index":\n')
    with pytest.raises(StateError, match=f"{path}, line 2"):
        list(recorded(path))


def test_a_file_of_failures_without_any_is_removed(tmp_path):
    path = tmp_path / "failed"
    with closing(FailureLog(path, 0)):
        assert path.exists()
    assert not path.exists()
    path.write_text('{"index": 1, "job": "a"}\n')
    with closing(FailureLog(path, path.stat().st_size)):
        pass
    assert [entry["index"] for entry in recorded(path)] == [1]


@pytest.fixture
def books(file):
    """The books of the third start of a feed whose jobs that failed are being fed again."""
    state = State(IDENTITY, "f00", 3, Pass(), Pass("again2"))
    books = Books(state, state.again, file, Outbox(JsonCodec()))
    yield state, books
    books.failures.close()


def apply_earlier(books, name, numbers, *, failed=(), status="succeeded"):
    failures = {position: Failure("ValueError", "no") for position in failed}
    error = None if status == "succeeded" else Failure("ValueError", "no")
    books.apply_earlier(ChunkName.parse(chunk_id(*name, numbers)), Report(error, failures=failures))


def test_receipts_of_earlier_starts_are_honoured_for_the_pass_they_are_of(books):
    state, books = books
    apply_earlier(books, ("f00", 1, 1, "jobs"), range(10), failed=[3])
    apply_earlier(books, ("f00", 2, 1, "again2"), range(2))
    assert (state.jobs.frontier.end, state.jobs.frontier.intervals) == (3, [(4, 10)])
    assert state.again.frontier.end == 2


def test_no_other_receipt_is_honoured(books):
    state, books = books
    apply_earlier(books, ("f00", 1, 1, "again1"), range(10))  # of a pass that is over
    apply_earlier(books, ("f0f", 1, 1, "jobs"), range(10))  # of another feed, or before a reset
    apply_earlier(books, ("f00", 3, 1, "jobs"), range(10))  # of this start: it came twice
    apply_earlier(books, ("f00", 1, 1, "jobs"), range(10), status="failed")
    apply_earlier(books, ("f00", 1, 1, "jobs"), (1, 3))  # which cannot be told from the id
    assert (len(state.jobs.frontier), len(state.again.frontier)) == (0, 0)
