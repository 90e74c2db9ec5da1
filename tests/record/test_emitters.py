"""The processes that emit events, in the store: gaps, states, and how many are kept."""

from support.record import CONSUMER, DISPATCHER, FILES, KEEP, NOON, failed, routed, states, succeeded

from taskqueue.messages import events
from taskqueue.messages.events import Emitter, ProcessState
from taskqueue.messages.relatives import Gone, Other
from taskqueue.monitor.record import Worker
from taskqueue.monitor.store import emitters as store_emitters
from taskqueue.monitor.store.store import Store

PLACES = [(31, "host2"), (32, "host2"), (31, "host3")]

# --- emitters ---


def test_a_batch_that_comes_twice_counts_once(store, stream, record):
    _, batch = stream.batch(CONSUMER, failed("a", state=events.RETRYING))
    store.write([(0, batch), (1, batch)])
    store.write([(2, batch)])
    assert len(record.find("a").runs) == 1
    assert sum(minute.count for minute in record.minutes(0, 1e10)) == 1


@FILES
def test_batches_up_to_the_position_are_skipped(store, stream):
    batch = stream.batch(CONSUMER, succeeded("a"))
    assert store.position() is None
    store.write([batch])
    store.write([batch])
    assert store.position() == 0
    store.forget_position()
    assert store.position() is None


def test_missed_events_are_a_gap_until_they_come(store, stream, record):
    store.write([stream.batch(CONSUMER, routed("a"))])
    late = stream.batch(CONSUMER, routed("b"), routed("c"))[1]
    stream.lose(CONSUMER, 3)
    store.write([stream.batch(CONSUMER, routed("d"))], NOON)
    (gap,) = record.gaps()
    assert (gap.emitter, gap.missed, gap.at) == (CONSUMER, 5, NOON)
    assert record.emitters()[0].missed == 5
    store.write([(9, late)])
    store.write([(10, late)])
    assert [gap.missed for gap in record.gaps()] == [record.emitters()[0].missed] == [3]
    assert states(record).keys() == {"a", "b", "c", "d"}


def test_of_an_emitter_that_is_younger_than_the_record_all_events_are_expected(store, stream, record):
    stream.lose(CONSUMER, 7)
    store.write([stream.batch(CONSUMER, routed("a"))], NOON)
    young = CONSUMER._replace(started=NOON + 1)
    stream.lose(young, 4)
    store.write([stream.batch(young, routed("b"))])
    assert [(gap.emitter, gap.missed) for gap in record.gaps()] == [(young, 4)]
    assert record.began_at() == NOON


def other(pid: int, at: float, state: str = "keeps its processes running") -> Other:
    return Other(at, "supervisor", "workerpool", pid, NOON - 2000, state, 99, 0.5, "root", "taskqueue 1.0")


def test_a_process_is_known_by_what_others_of_its_host_tell(store, stream, record):
    second = CONSUMER._replace(pid=21)
    store.write(
        [stream.batch(CONSUMER, other(19, NOON)), stream.batch(second, other(19, NOON + 9))], NOON + 9
    )
    told = [row for row in record.emitters() if row.emitter.kind == "supervisor"]
    emitter = Emitter("host2", "supervisor", "workerpool", 19, NOON - 2000)
    assert [(row.emitter, row.state_at, row.last_seen) for row in told] == [(emitter, NOON + 9, NOON + 9)]
    assert (told[0].state, told[0].rss, told[0].cpu, told[0].user, told[0].version, told[0].missed) == (
        *("keeps its processes running", 99, 0.5, "root", "taskqueue 1.0", 0),
    )
    store.note_processes("host1", [other(5, NOON), other(6, NOON)], NOON)
    store.note_processes("host1", [other(5, NOON + 1, "ended")], NOON + 1)
    states = {row.emitter.pid: row.state for row in record.emitters() if row.emitter.host == "host1"}
    assert states == {5: "ended", 6: "keeps its processes running"}


def test_a_process_has_ended_once_it_or_another_of_its_host_says_so(store, stream, record):
    first, second, far = (CONSUMER._replace(pid=pid, host=host) for pid, host in PLACES)
    again = first._replace(started=NOON + 5)
    works = ProcessState(NOON, "takes work")
    store.write([stream.batch(each, works) for each in (first, second, far, again)], NOON)
    store.write(
        [stream.batch(second, works._replace(state="ended")), stream.batch(again, Gone(NOON + 4, 31))]
    )
    alive = {row.emitter for row in record.emitters() if row.is_alive(NOON + 1)}
    assert alive == {far, again}, "a process of another host or a later one may have the number"


def test_the_state_of_an_emitter_is_its_last_one(store, stream, record):
    store.write(
        [stream.batch(CONSUMER, ProcessState(1.0, "starts"), ProcessState(2.0, "works", 4, 2, 99, 0.5, 1, 7))]
    )
    (row,) = record.emitters()
    assert (row.emitter, row.state, row.slots, row.busy, row.rss, row.cpu, row.is_blocked, row.lost) == (
        CONSUMER, "works", 4, 2, 99, 0.5, True, 7
    )  # fmt: skip


def test_what_an_emitter_tells_of_its_process_is_read(store, stream, record):
    told = ProcessState(NOON, "works", user="tq", version="taskqueue 1.0, thumbs 2.1", prefetch=8, crashes=2)
    told = told._replace(crash="killed by SIGSEGV", workers="1:4711:30000000 2:4712:0 odd 3:x:9")
    store.write([stream.batch(CONSUMER, told)])
    (row,) = record.emitters()
    shown = (row.user, row.version, row.prefetch, row.crashes, row.crash)
    assert shown == ("tq", "taskqueue 1.0, thumbs 2.1", 8, 2, "killed by SIGSEGV")
    group = CONSUMER.group
    assert row.named_workers == {f"{group}/1": Worker(4711, 30_000_000), f"{group}/2": Worker(4712, None)}


def test_a_version_is_noted_when_a_group_of_a_host_gets_another_one(store, stream, record):
    def tell(number, version, at, host="host9"):
        each = emitter(number)._replace(host=host)
        store.write([stream.batch(each, ProcessState(at, "works", version=version))], at)

    tell(1, "1.0", NOON)
    tell(2, "1.0", NOON + 1)
    tell(3, "1.1", NOON + 2)
    for again in range(3):  # an old process beside the new one tells nothing new
        tell(1, "1.0", NOON + 3 + again)
        tell(3, "1.1", NOON + 3 + again)
    tell(4, "1.0", NOON + 9, "host8")
    tell(5, "", NOON + 10)
    assert [(each.host, each.version, each.at) for each in record.versions()] == [
        ("host9", "1.0", NOON), ("host9", "1.1", NOON + 2), ("host8", "1.0", NOON + 9)
    ]  # fmt: skip


def test_old_notes_of_versions_are_forgotten(store, stream, record, monkeypatch):
    monkeypatch.setattr(store_emitters, "_MOST_VERSIONS", 3)
    for number in range(9):
        told = ProcessState(NOON, "works", version=f"1.{number}")
        store.write([stream.batch(emitter(number), told)], NOON)
    store.prune(NOON + 60, KEEP, 1e9, 10**12)
    assert [each.version for each in record.versions()] == ["1.6", "1.7", "1.8"]


# --- emitters that have ended ---


def emitter(number, started=NOON):
    return Emitter("host9", "consumer", "thumbs", number, started)


def emitters(record):
    return {row.emitter.pid for row in record.emitters() if row.emitter.host == "host9"}


def test_an_emitter_is_forgotten_a_day_after_it_was_last_seen(store, stream, record):
    store.write([stream.batch(emitter(1), ProcessState(NOON, "ends"))], NOON)
    store.write([stream.batch(emitter(2), ProcessState(NOON, "ends"))], NOON + 3600)
    store.prune(NOON + 86400 + 60, KEEP, 1e9, 10**12)
    assert emitters(record) == {2}


def test_of_many_emitters_that_have_ended_the_last_ones_are_kept(store, stream, record, monkeypatch):
    monkeypatch.setattr(store_emitters, "_MOST_ENDED", 10)
    batches = [stream.batch(emitter(number), ProcessState(NOON, "ends")) for number in range(30)]
    for number, each in enumerate(batches):
        store.write([each], NOON + number)
    store.write([stream.batch(emitter(0), ProcessState(NOON, "runs"))], NOON + 1000)
    store.prune(NOON + 1000, KEEP, 1e9, 10**12)
    assert emitters(record) == {0, *range(20, 30)}


def test_invented_emitters_are_bounded_even_between_two_prunings(store, stream, record, monkeypatch):
    monkeypatch.setattr(store_emitters, "_MOST", 20)
    for start in range(0, 1000, 100):
        batches = [stream.batch(emitter(start + n), ProcessState(NOON, "x")) for n in range(100)]
        store.write(batches, NOON + start)
        assert len(record.emitters()) <= 40
    assert 999 in emitters(record)


def test_gaps_of_invented_emitters_are_bounded(store, stream, record, monkeypatch):
    monkeypatch.setattr(store_emitters, "_MOST_GAPS", 10)
    for number in range(30):
        each = emitter(number)
        stream.lose(each, 5)
        store.write([stream.batch(each, ProcessState(NOON, "x"))], NOON - 1000)
    store.prune(NOON + 2 * 86400, KEEP, 1e9, 10**12)
    assert [gap.emitter.pid for gap in record.gaps()] == list(range(29, 19, -1))
    assert emitters(record) == set(range(20, 30))


@FILES
def test_an_emitter_that_comes_back_has_missed_nothing(stream, record, tmp_path):
    away, young = emitter(1, NOON - 10), emitter(2, NOON + 2 * 86400)
    with Store(tmp_path) as store:
        store.write([stream.batch(DISPATCHER, routed("a"))], NOON - 100)
        store.write([stream.batch(away, ProcessState(NOON, "takes work"))], NOON)
        store.prune(NOON + 2 * 86400, KEEP, 1e9, 10**12)
    with Store(tmp_path) as store:
        stream.lose(young, 2)
        batches = [stream.batch(each, ProcessState(NOON, "takes work")) for each in (away, young)]
        store.write(batches, NOON + 2 * 86400 + 5)
    assert [(gap.emitter, gap.missed) for gap in record.gaps()] == [(young, 2)]
