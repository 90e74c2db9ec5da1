"""The record says the same in whatever order the events of different emitters come."""

from random import Random

import pytest
from support.record import History
from support.waiting import wait_until

from taskqueue.monitor.store.opening import open_store
from taskqueue.monitor.store.reading import Record
from taskqueue.monitor.store.store import Store


def write(directory, database, history):
    """Write batches by some at once; open the store anew now and then."""
    batches, random = history.batches(), history.random
    store = open_store(directory, database)
    assert store.acquire()
    while batches:
        size = random.choice([1, 2, 5, 50])
        store.write(batches[:size])
        del batches[:size]
        if random.random() < 0.1:
            store.close()
            store = open_store(directory, database)
            wait_until(store.acquire, 10, "the lock of the session before")
    store.close()


@pytest.mark.parametrize("seed", range(12))
def test_the_order_of_emitters_does_not_matter(tmp_path, database, seed):
    history = History(Random(seed), 60)
    write(tmp_path, database, history)
    with Record(tmp_path, database) as record:
        history.check(record)


def test_a_record_that_is_read_again_from_the_stream_stays_as_it_is(tmp_path):
    """Only live.db is lost: the days' files keep what they have."""
    history = History(Random(5), 60)
    batches = history.batches()
    with Store(tmp_path) as store:
        store.write(batches)
    (tmp_path / "live.db").unlink()
    with Store(tmp_path) as store, Record(tmp_path) as record:
        assert store.position() is None
        for number in range(0, len(batches), 7):
            store.write(batches[number : number + 7])
        history.check(record)
