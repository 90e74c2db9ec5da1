"""The threads that read the record: a query that takes too long is stopped, and holds no thread."""

import asyncio
import contextlib

import pytest
from support.recorded import write_record

from taskqueue.errors import RecordUnavailable
from taskqueue.monitor.web.readers import THREADS, Readers, TooSlow

ENDLESS = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT count(*) FROM n"


@pytest.fixture
def record(tmp_path):
    write_record(tmp_path / "record")
    return tmp_path / "record"


def never_ends(record):
    live = record._sources.refresh().live
    for _ in range(3):  # also a query of several statements
        with contextlib.suppress(RecordUnavailable):
            live.query(ENDLESS)


def test_queries_that_never_end_leave_all_threads_to_others(record):
    async def work(readers):
        slow = [readers.read(never_ends) for _ in range(THREADS)]
        for error in await asyncio.gather(*slow, return_exceptions=True):
            assert isinstance(error, TooSlow)
        async with asyncio.timeout(20):
            while True:
                try:
                    return await asyncio.gather(*[readers.read(began_at) for _ in range(2 * THREADS)])
                except TooSlow:  # the threads are being freed
                    continue

    with contextlib.closing(Readers(record, deadline=0.2)) as readers:
        assert None not in asyncio.run(work(readers))


def began_at(record):
    return record.began_at()


def test_what_a_query_raises_is_raised(record):
    with contextlib.closing(Readers(record)) as readers, pytest.raises(ZeroDivisionError):
        asyncio.run(readers.read(lambda _record: 1 / 0))
