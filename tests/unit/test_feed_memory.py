"""A feed's own memory: its books, the jobs that are out and its state file, for millions of jobs."""

import gc
import tracemalloc
from pathlib import Path

import pytest

import taskqueue
from taskqueue.amqp.properties import Properties
from taskqueue.broker.subscription import Delivery
from taskqueue.feed.chunker import Chunk, Job, Outbox
from taskqueue.feed.receipts import Books
from taskqueue.feed.state import Identity, Pass, State, StateFile
from taskqueue.feed.wire import JsonCodec, chunk_id

JOBS, OUT = 10_000, 40  # a chunk's jobs; how many chunks are out at a time
FEW, MANY = 2_000_000, 20_000_000


class Feed:
    """Sends chunks and hears of them, as a feeder does, in the order that suits the books least."""

    def __init__(self, file):
        self.out = Outbox(JsonCodec())
        self.state = State(Identity("jobs.py:get_jobs", {}, "application/json"), "f00", 1, Pass())
        self.books = Books(self.state, self.state.jobs, file, self.out)
        self.sent = 0

    def go_on_until(self, jobs):
        while self.sent < jobs:
            sent = [self.send(range(self.sent + at * JOBS, self.sent + (at + 1) * JOBS)) for at in range(OUT)]
            self.sent += OUT * JOBS
            for chunk in reversed(sent):  # so that each is an island, and has a gap
                self.hear(chunk)
                self.run_again(Job(chunk.numbers[7], chunk.numbers[7], 7))
            self.books.save(lambda: (self.sent, self.sent))
        gc.collect()
        ours = tracemalloc.Filter(True, str(Path(taskqueue.__file__).parent / "*"))
        return sum(trace.size for trace in tracemalloc.take_snapshot().filter_traces([ours]).traces)

    def send(self, numbers):
        chunk = Chunk(chunk_id("f00", 1, numbers[0], "jobs", numbers), numbers, numbers, b"[]")
        self.out.add(chunk)
        return chunk

    def hear(self, chunk):
        self.books.receipts.append(
            Delivery(1, 1, redelivered=False, properties=Properties().encode(), body=b"")
        )
        assert self.out.remove(chunk.id) is chunk
        self.books.finish(chunk.numbers, [7])

    def run_again(self, job):
        assert self.out.run_again(job, most=2)
        assert self.out.again.popleft() is job
        self.hear(self.send(range(job.number, job.number + 1)))


@pytest.fixture
def file(tmp_path):
    with StateFile(tmp_path / "state") as held:
        yield held


def test_twenty_million_jobs_take_no_more_memory_than_two(file, tmp_path):
    feed = Feed(file)
    tracemalloc.start()
    try:
        few = feed.go_on_until(FEW)
        size = (tmp_path / "state").stat().st_size
        many = feed.go_on_until(MANY)
    finally:
        tracemalloc.stop()
        feed.books.failures.close()
    assert (len(feed.state.jobs.frontier), feed.out.jobs) == (feed.sent, 0)
    chunks = (MANY - FEW) / JOBS
    assert many - few < 8 * chunks, "a pointer for each chunk, or more"
    assert (tmp_path / "state").stat().st_size <= size + 10  # digits
