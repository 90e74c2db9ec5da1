"""Messages that nobody should have put among receipts and replies: dropped, counted, and in nobody's way."""

import json

import amqp
import pytest
from support.feeds import feed
from support.waiting import wait_until
from support.wire import RawMessage, nested, properties, short, table

from taskqueue import AsyncClient
from taskqueue.calls import named
from taskqueue.errors import BrokerUnavailable

__all__ = ["feed"]

NUMBER = 60_500  # more than a feeder or a client has delivered at a time
RECEIPTS, REPLIES = "receipts_feed_jobs", "replies_billing"
EXPIRE = 7 * 24 * 3600  # seconds
EXPIRES = {"x-expires": EXPIRE * 1000}

BAD_RECEIPTS = {
    "no JSON": (b"garbage", {"x-taskqueue-status": "succeeded"}),
    "no object": (b"[1]", {"x-taskqueue-status": "succeeded"}),
    "no status": (b"{}", {}),
    "no times": (
        b'{"worker": "w", "threads": 1, "failed": [], "traces": []}',
        {"x-taskqueue-status": "succeeded"},
    ),
    "times that are none": (
        b'{"worker": "w", "threads": 1, "failed": [], "traces": []}',
        {"x-taskqueue-status": "succeeded", "x-taskqueue-started": "a", "x-taskqueue-ended": "b"},
    ),
    "a job that is not in it": (
        b'{"worker": "w", "threads": 1, "failed": [[1000000, "E", "m", -1]], "traces": []}',
        {"x-taskqueue-status": "succeeded", "x-taskqueue-started": 1.0, "x-taskqueue-ended": 2.0},
    ),
    "an error that is none": (b'{"error": 1}', {"x-taskqueue-status": "failed"}),
}


def test_a_feeder_starts_although_its_receipts_queue_is_full_of_garbage(feed, foreign):
    foreign.declare(RECEIPTS, arguments=EXPIRES)
    foreign.publish_many((b"garbage" for _ in range(NUMBER)), RECEIPTS)
    feed.work()
    done = feed.run("number=2000", timeout=120)
    assert done.returncode == 0, done.stderr
    assert feed.handled().keys() == set(range(2000))
    lines = [line for line in done.stderr.splitlines() if "messages that are not receipts" in line]
    assert 1 <= len(lines) < 20
    assert sum(int(line.split(" messages")[0].split()[-1]) for line in lines) == NUMBER
    assert "correlation id '' is not that of a chunk" in lines[0]


def test_properties_that_cannot_be_read_are_dropped(feed, foreign):
    foreign.declare(RECEIPTS, arguments=EXPIRES)
    raw = properties(headers=table([(b"nest", nested(5000))]), correlation_id=short(b"feed-ab-1-0-jobs-0-5"))
    message = RawMessage(b"{}", raw)
    foreign._do(lambda channel: channel.basic_publish_confirm(message, "", RECEIPTS, mandatory=True))
    feed.work()
    done = feed.run("number=200")
    assert done.returncode == 0, done.stderr
    assert "dropped 1 messages that are not receipts; the last: MalformedProperties" in done.stderr


@pytest.mark.parametrize("kind", BAD_RECEIPTS)
def test_the_jobs_of_a_chunk_whose_receipt_cannot_be_read_are_not_lost(feed, foreign, kind):
    body, headers = BAD_RECEIPTS[kind]
    foreign.declare("worker_feed_jobs")
    feeder = feed.start("number=300")
    wait_until(lambda: (foreign.depth("worker_feed_jobs") or 0) > 0)
    chunk = foreign.get("worker_feed_jobs")
    foreign.publish(
        body, RECEIPTS, correlation_id=chunk.properties["correlation_id"], application_headers=headers
    )
    feed.work()
    assert feeder.wait(60) == 0
    assert feed.handled().keys() == set(range(300))


def test_calls_work_although_a_clients_queue_is_full_of_garbage(served):
    foreign = served.foreign
    foreign.declare(REPLIES, arguments=EXPIRES)
    foreign.publish_many((b"garbage" for _ in range(NUMBER // 2)), REPLIES)
    for number in range(0, NUMBER // 2, 100):
        foreign.publish_many([b"garbage"] * 100, REPLIES, correlation_id=f"nobody{number}")
    with AsyncClient(served.url, name="billing", expires=EXPIRE) as client:
        assert client.add(1, 2).result(60) == 3
    wait_until(lambda: foreign.depth(REPLIES) == 0, 30)


def imitate(foreign, number, imitation):
    foreign.delete(REPLIES)
    foreign.declare(REPLIES, arguments=EXPIRES)
    channel = foreign._open_channel()
    for each in range(number):
        body, kind = json.dumps(imitation(f"x{each}")), "application/json"
        message = amqp.Message(body, correlation_id=f"x{each}", content_type=kind, delivery_mode=2)
        channel.basic_publish(message, "", REPLIES)
    wait_until(lambda: foreign.depth(REPLIES) == number, 60)


@pytest.fixture
def few(monkeypatch):
    """Have a client take fewer at a time, so that fewer are too many."""
    monkeypatch.setattr(named, "_PREFETCH", 1200)
    monkeypatch.setattr(named, "_MOST_OPEN", 1000)
    monkeypatch.setattr(named, "_MOST_UNANNOUNCED", 100)


def test_calls_work_although_strangers_imitate_replies(few, served):
    imitate(served.foreign, 1500, lambda id_: {"jsonrpc": "2.0", "result": 1, "id": id_})
    with AsyncClient(served.url, name="billing", expires=EXPIRE) as client:
        assert client.add(1, 2).result(60) == 3
        assert client.get("x7").result(1) == 1
    served.foreign.delete(REPLIES)


def test_calls_that_strangers_claim_to_have_made_are_bounded(few, served):
    def claim(id_):
        return {"jsonrpc": "2.0", "method": "submitted", "params": {"id": id_, "task": "add"}}

    imitate(served.foreign, 1500, claim)
    with AsyncClient(served.url, name="billing", expires=EXPIRE) as client:
        assert client.add(1, 2).result(60) == 3
        with pytest.raises(
            BrokerUnavailable, match="1000 calls are pending or not fetched; fetch results first"
        ):
            client.add(1, 2)
    served.foreign.delete(REPLIES)
