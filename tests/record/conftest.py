"""The fixtures of the tests of the record's databases."""

import pytest
from support.record import Stream

from taskqueue.monitor.store.opening import open_store
from taskqueue.monitor.store.reading import Record


@pytest.fixture
def stream():
    return Stream()


@pytest.fixture
def store(tmp_path, database):
    with open_store(tmp_path, database) as store:
        assert store.acquire()
        yield store


@pytest.fixture
def record(tmp_path, database):
    with Record(tmp_path, database) as record:
        yield record
