"""The number of jobs in a chunk, and of chunks that are out."""

from taskqueue.feed.chunker import Pace


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
    pace.workers_idle()
    pace.note("a", 1, 1, 60.0)
    assert pace.chunks >= before + 4
