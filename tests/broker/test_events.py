"""Publishing events, with a real broker: batches, their confirms, and what happens if nobody takes them."""

import pytest
from support.script import Scripted

from taskqueue.broker import events as publishing
from taskqueue.broker.events import EventPublisher
from taskqueue.broker.outbound import Outbound, OutboundListener
from taskqueue.broker.publisher import PublishResult
from taskqueue.messages.events import Ended, LogLine, ProcessState, Progress, Routed, decode

EVENTS = "taskqueue_events"


class Daemon(Scripted, OutboundListener):
    """A process that emits events."""

    def __init__(self, url):
        super().__init__(url)
        self.done = []
        self.outbound = Outbound(self.loop, self.session, self)
        self.events = EventPublisher(self.loop, self.session, self.outbound, "consumer", "good")
        self.events.on_recorded = self.done.append
        self.returned = 0  # batches
        settle = self.outbound.send

        def send(publication, settled):
            def take(publication, result, reason):
                self.returned += result is PublishResult.RETURNED
                settled(publication, result, reason)

            settle(publication, take)

        self.outbound.send = send

    def emit(self, *names):
        """Emit an event for each name; `done` gets it once it is settled; return for how many."""
        return sum(self.events.emit(Progress(n, 1.0, 0.5), n) for n in names)

    def run(self, script):
        self.perform(script(self), lambda: self.session.is_up, lambda: self.done)


def bind(foreign, **arguments):
    foreign.declare(EVENTS, arguments=arguments)
    foreign.bind(EVENTS)


def recorded(foreign):
    """Return the batches in the queue."""
    batches = []
    while (message := foreign.poll(EVENTS)) is not None:
        batches.append(decode(message.body))
    return batches


def test_the_events_of_a_round_are_one_message_and_are_numbered_without_gaps(amqp_url, foreign):
    bind(foreign)

    def script(daemon):
        assert daemon.emit("a", "b") == 2
        yield lambda: daemon.done == ["a", "b"]
        assert daemon.emit("c") == 1
        yield lambda: daemon.done == ["a", "b", "c"]

    Daemon(amqp_url).run(script)
    batches = recorded(foreign)
    assert [(batch.number, [event.id for event in batch.events]) for batch in batches] == [
        (1, ["a", "b"]),
        (3, ["c"]),
    ]
    assert {(batch.emitter.kind, batch.emitter.group) for batch in batches} == {("consumer", "good")}


def test_events_that_precede_the_connection_are_published_with_it(amqp_url, foreign):
    bind(foreign)

    def script(daemon):
        yield lambda: daemon.done == ["early"]

    daemon = Daemon(amqp_url)
    assert daemon.emit("early") == 1
    daemon.run(script)
    assert [event.id for batch in recorded(foreign) for event in batch.events] == ["early"]


def test_while_nobody_has_bound_a_queue_work_goes_on_and_no_events_are_made(amqp_url, foreign, monkeypatch):
    monkeypatch.setattr(publishing, "_PAUSE", 0.5)

    def script(daemon):
        yield lambda: daemon.emit("returned") == 1
        yield lambda: daemon.done == ["returned"]
        yield lambda: not daemon.events.is_on  # after the second in which a stream may start
        assert daemon.emit("skipped") == 0
        bind(foreign)
        yield lambda: daemon.emit("recorded") == 1
        yield lambda: "recorded" in daemon.done
        assert daemon.events.lost == 0

    Daemon(amqp_url).run(script)
    (batch,) = recorded(foreign)
    assert [event.id for event in batch.events] == ["recorded"]
    assert batch.number > 2  # the skipped ones have numbers, too


def test_events_after_a_returned_batch_wait_until_it_is_published_again(amqp_url, foreign):
    """A stream that starts takes nothing for a moment; each returned batch costs broker and process."""

    def script(daemon):
        assert daemon.emit("0") == 1
        yield lambda: daemon.returned
        for number in range(1, 21):
            assert daemon.emit(str(number)) == 0
            rounds = iter((False, True))
            yield lambda rounds=rounds: next(rounds)
        bind(foreign)
        yield lambda: foreign.depth(EVENTS) == 2
        assert daemon.done == ["0"]
        assert daemon.events.is_on
        assert daemon.events.lost == 0

    Daemon(amqp_url).run(script)
    batches = recorded(foreign)
    assert [[event.id for event in batch.events] for batch in batches] == [
        ["0"],
        [str(n) for n in range(1, 21)],
    ]
    assert [batch.number for batch in batches] == [1, 2]


def test_an_unconfirmed_batch_is_given_up_and_the_loss_is_counted(amqp_url, foreign, monkeypatch, caplog):
    """A full queue that refuses is like a stream whose node is away: the broker confirms nothing."""
    monkeypatch.setattr(publishing, "_PAUSE", 0.2)
    monkeypatch.setattr(publishing, "_PATIENCE", 0.5)
    bind(foreign, **{"x-max-length": 0, "x-overflow": "reject-publish"})

    def script(daemon):
        assert daemon.emit("late", "too") == 2
        yield lambda: daemon.done == ["late", "too"]
        assert (daemon.events.lost, daemon.events.abandoned) == (2, 1)
        assert daemon.emit("skipped") == 0
        foreign.delete(EVENTS)
        bind(foreign)
        yield lambda: daemon.events.abandoned == 0  # confirmed after all
        assert daemon.events.lost == 0
        yield lambda: daemon.emit("on again") == 1

    Daemon(amqp_url).run(script)
    assert "2 events are not recorded: the broker has not confirmed them within 0.5 s" in caplog.text
    assert "refused a message" not in caplog.text, "one line tells it, not one for each try"
    assert [event.id for event in recorded(foreign)[0].events] == ["late", "too"]


def test_after_a_reconnect_a_batch_comes_again_with_the_same_number(proxy, foreign):
    bind(foreign)

    def script(daemon):
        assert daemon.emit("first") == 1
        yield lambda: daemon.done == ["first"]  # the exchange is known
        proxy.stall()
        assert daemon.emit("a") == 1
        yield lambda: daemon.outbound.unsettled == 1
        daemon.loop.at_round_end(proxy.cut)
        yield lambda: not daemon.session.is_up
        assert daemon.emit("b") == 1
        proxy.resume()
        yield lambda: daemon.done == ["first", "a", "b"]

    Daemon(proxy.url).run(script)
    found = {(batch.number, batch.events[0].id) for batch in recorded(foreign)}  # one may come twice
    assert found == {(1, "first"), (2, "a"), (3, "b")}


def test_events_that_a_starting_stream_returns_after_a_reconnect_are_published_again(proxy, foreign):
    """RabbitMQ 3.10 accepts connections before it routes to its streams again."""
    bind(foreign)

    def script(daemon):
        assert daemon.emit("a") == 1
        yield lambda: daemon.done == ["a"]
        foreign.delete(EVENTS)
        proxy.cut()
        yield lambda: not daemon.session.is_up
        assert daemon.emit("b") == 1
        yield lambda: daemon.session.is_up and daemon.returned
        assert daemon.done == ["a"]
        bind(foreign)
        yield lambda: daemon.done == ["a", "b"]
        assert daemon.events.is_on

    Daemon(proxy.url).run(script)
    (batch,) = recorded(foreign)
    assert (batch.number, batch.events[0].id) == (2, "b")


def test_work_goes_on_if_the_broker_does_not_answer_about_the_exchange(proxy, monkeypatch):
    monkeypatch.setattr(publishing, "_PATIENCE", 0.5)

    def script(daemon):
        assert daemon.emit("a") == 1
        yield lambda: daemon.done == ["a"]
        proxy.resume()

    daemon = Daemon(proxy.url)
    daemon.events._exchange.provide = lambda _then, _failed: proxy.stall()  # before the question leaves
    daemon.run(script)


def test_the_exchange_is_declared_again_after_it_was_deleted(amqp_url, foreign, monkeypatch):
    monkeypatch.setattr(publishing, "_PAUSE", 0.2)
    bind(foreign)

    def script(daemon):
        assert daemon.emit("a") == 1
        yield lambda: daemon.done == ["a"]
        foreign._do(lambda channel: channel.exchange_delete(EVENTS))
        assert daemon.emit("b") == 1
        yield lambda: daemon.done == ["a", "b"]
        yield lambda: daemon.emit("c") == 1
        yield lambda: daemon.done[-1] == "c"

    Daemon(amqp_url).run(script)
    bind(foreign)  # the exchange is there, with its own arguments


def test_events_without_room_are_dropped_and_leave_a_gap_in_the_numbers(amqp_url, foreign, monkeypatch):
    monkeypatch.setattr(publishing, "_LARGEST_BATCH", 100)
    monkeypatch.setattr(publishing, "_MOST_FULL", 2)
    bind(foreign)
    daemon = Daemon(amqp_url)
    for number in range(20):
        daemon.events.emit(Progress(f"{number}", 1.0, 0.5, "x" * 60))

    def script(daemon):
        assert daemon.emit("last") == 1
        yield lambda: daemon.done == ["last"]

    dropped = daemon.events.lost
    assert dropped == 20 - 4
    daemon.run(script)
    batches = recorded(foreign)
    assert sum(batch.size for batch in batches) == 5
    daemon_last = batches[-1]
    assert daemon_last.number + daemon_last.size + dropped == 1 + 20 + 1


def test_the_process_is_described_while_somebody_records(amqp_url, foreign, monkeypatch):
    monkeypatch.setattr(publishing, "_PROCESS_DELAY", 0.05)
    bind(foreign)

    def script(daemon):
        daemon.events.report_process(lambda: ProcessState(1.0, "takes work", 4, 2, version="good 2.1"))
        yield lambda: foreign.depth(EVENTS) >= 2

    Daemon(amqp_url).run(script)
    state = recorded(foreign)[0].events[0]
    assert (state.state, state.slots, state.busy) == ("takes work", 4, 2)
    assert state.rss > 1_000_000
    assert state.version.endswith(", good 2.1")
    assert state.cpu > 0


def test_a_monitor_that_starts_after_the_process_was_described_misses_no_work(amqp_url, foreign, monkeypatch):
    monkeypatch.setattr(publishing, "_PROCESS_DELAY", 0.05)
    described = []

    def describe():
        described.append(1)
        return ProcessState(1.0, "takes work", 4, 2)

    def script(daemon):
        daemon.events.report_process(describe)
        yield lambda: len(described) >= 5 and not daemon.outbound.publisher.unsettled
        bind(foreign)
        assert daemon.events.is_on
        daemon.emit("a")
        yield lambda: daemon.done == ["a"]

    Daemon(amqp_url).run(script)
    assert any(Progress("a", 1.0, 0.5) in batch.events for batch in recorded(foreign))


def test_without_the_right_to_write_to_the_exchange_no_events_are_made(
    session_broker, vhost, foreign, monkeypatch, caplog
):
    """The broker closes the channel at each message; work must not pay for that again and again."""
    url = session_broker.add_user("scribe", vhost)
    session_broker.evaluate(
        f'rabbit_auth_backend_internal:set_permissions(<<"scribe">>, <<"{vhost}">>, <<".*">>, '
        '<<"^(?!taskqueue_events)">>, <<".*">>, <<"tests">>)'
    )
    bind(foreign)

    def script(daemon):
        assert daemon.emit("refused") == 1
        yield lambda: daemon.done == ["refused"]
        assert daemon.emit("skipped") == 0
        assert daemon.events.lost == 1

    Daemon(url).run(script)
    assert caplog.text.count("1 events are not recorded: the broker refuses them: ACCESS_REFUSED") == 1
    session_broker.delete_user("scribe")


def test_under_an_alarm_output_without_end_is_dropped_beyond_a_bound(
    session_broker, amqp_url, foreign, monkeypatch
):
    monkeypatch.setattr(publishing, "_MOST_UNCONFIRMED", 10_000)
    bind(foreign)

    def script(daemon):
        session_broker.evaluate("vm_memory_monitor:set_vm_memory_high_watermark(1.0e-6)")
        assert daemon.emit("before") == 1
        yield lambda: daemon.session.is_blocked
        for number in range(100):
            daemon.events.emit(Progress(f"{number}", 1.0, 0.5, "x" * 1000))
            turn = []
            daemon.loop.call_later(0, lambda turn=turn: turn.append(1))
            yield lambda turn=turn: turn
        assert daemon.events.lost > 80
        assert daemon.emit("awaited") == 1
        session_broker.evaluate("vm_memory_monitor:set_vm_memory_high_watermark(0.4)")
        yield lambda: daemon.done == ["before", "awaited"]
        lost = daemon.events.lost
        daemon.events.emit(Progress("after", 1.0, 0.5))
        assert daemon.events.lost == lost

    try:
        Daemon(amqp_url).run(script)
    finally:
        session_broker.evaluate("vm_memory_monitor:set_vm_memory_high_watermark(0.4)")


@pytest.fixture
def limit(broker):
    """Limit the size of messages."""
    yield broker.limit_messages
    broker.limit_messages(16_777_216)


def ended(name, result):
    return Ended(
        name, "good", 1, "succeeded", "succeeded", 2.0, 1.0, content_type="text/plain", result=result
    )


def test_a_batch_that_is_too_large_for_the_broker_is_split(amqp_url, foreign, limit, caplog):
    bind(foreign)
    limit(20_000)
    names = [f"e{number}" for number in range(30)]

    def script(daemon):
        for name in names:
            assert daemon.events.emit(ended(name, "QUJD" * 500), name)
        yield lambda: sorted(daemon.done) == sorted(names)
        assert daemon.events.is_on
        for name in ("x", "y"):  # the size is known now
            daemon.events.emit(ended(name, "QUJD" * 3000), name)
        yield lambda: len(daemon.done) == len(names) + 2
        assert daemon.events.lost == 0

    Daemon(amqp_url).run(script)
    batches = sorted(recorded(foreign), key=lambda batch: batch.number)
    assert [event.id for batch in batches for event in batch.events] == [*names, "x", "y"]
    assert all(event.result and not event.omitted for batch in batches for event in batch.events)
    number = 1
    for batch in batches:
        assert batch.number == number
        number += batch.size
    assert len(batches) < len(names)
    assert caplog.text.count("PRECONDITION_FAILED") <= 1


def test_an_event_that_is_too_large_alone_tells_what_was_left_out(amqp_url, foreign, limit):
    bind(foreign)
    limit(20_000)
    failure = Ended(
        "f", "good", 1, "failed", "failed", 2.0, error="E", traceback="T" * 16_000, result="QUJD" * 9000
    )

    def script(daemon):
        yield lambda: daemon.emit("small") == 1
        daemon.events.emit(ended("large", "QUJD" * 9000), "large")
        daemon.events.emit(failure, "f")
        daemon.events.emit(Routed("r", "good", 1.0, 5, head="h" * 60_000), "r")
        yield lambda: sorted(daemon.done) == ["f", "large", "r", "small"]
        assert (daemon.events.is_on, daemon.events.lost) == (True, 0)

    Daemon(amqp_url).run(script)
    found = {event.id: event for batch in recorded(foreign) for event in batch.events}
    assert (found["large"].result, found["large"].content_type, found["large"].omitted) == ("", "", "result")
    assert (found["f"].result, found["f"].omitted, found["f"].traceback) == ("", "result", "T" * 16_000)
    assert found["r"].head == ""


def test_an_event_that_no_message_can_hold_is_lost_and_work_and_other_events_go_on(amqp_url, foreign, limit):
    bind(foreign)
    limit(5000)

    def script(daemon):
        daemon.events.emit(LogLine("l", 1.0, "w1", "stdout", "x" * 9000), "l")
        assert daemon.emit("a") == 1
        yield lambda: sorted(daemon.done) == ["a", "l"]
        assert (daemon.events.is_on, daemon.events.lost) == (True, 1)

    Daemon(amqp_url).run(script)
    (batch,) = recorded(foreign)
    assert (batch.number, [event.id for event in batch.events]) == (2, ["a"])
