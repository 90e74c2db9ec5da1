"""The messages of a feeder and its workers: jobs, ids of chunks, receipts."""

import json
import pickle

import pytest

from taskqueue.amqp.properties import Properties
from taskqueue.errors import (
    ConfigError,
    JobUnwritable,
    WorkitemUnreadable,
)
from taskqueue.feed.chunk_worker import _performer
from taskqueue.feed.chunker import as_numbers
from taskqueue.feed.wire import (
    ChunkName,
    JsonCodec,
    PickleCodec,
    Receipt,
    ReceiptUnreadable,
    chunk_id,
    failures,
    read,
)

KEY = b"0123456789abcdef"


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
    told = failures(plain, 1000)
    assert list(told) == list(range(300))
    assert str(told[299]).startswith("JSONDecodeError: Expecting value")
    assert "in raw_decode" in told[299].traceback


@pytest.mark.parametrize("position", [-1, 2, 0.5, "0", None])
def test_a_receipt_of_a_job_that_its_chunk_does_not_have_is_unreadable(position):
    headers = {"x-taskqueue-status": "succeeded", "x-taskqueue-started": 1.0, "x-taskqueue-ended": 2.0}
    plain = {"worker": "a", "threads": 1, "failed": [[position, "ValueError", "no", -1]], "traces": []}
    with pytest.raises(ReceiptUnreadable):
        read(Properties().with_headers(headers), json.dumps(plain).encode(), 2)


def test_a_function_that_only_returns_a_coroutine_has_not_handled_its_jobs():
    async def handle(job):
        return job

    receipt = Receipt(1)
    _performer(lambda job: handle(job), 1)([1, 2], receipt)  # noqa: PLW0108 -- no async def itself
    assert [failure.type for failure in failures(receipt.plain(), 10).values()] == ["TypeError", "TypeError"]
