"""Keepers on a real broker: who is active, what it answers, and what a kill leaves."""

import json
import os
import signal
import time
from itertools import count, product

import pytest
from support.waiting import wait_until

from taskqueue.amqp.properties import Properties
from taskqueue.broker.standby import SIGNALS
from taskqueue.config import AmqpSettings, LoggingSettings
from taskqueue.dispatcher.duplicates import question
from taskqueue.keeper import keeper
from taskqueue.keeper.keeper import Keeper
from taskqueue.process import logs
from taskqueue.process.daemon import Signals
from taskqueue.unique import claims
from taskqueue.unique.headers import Unique
from taskqueue.unique.wire import Ask, Follower, Result, Verdict, decode_answers, encode_asks, encode_end

LOG, ANSWERS = "taskqueue_claims", "answers"
DAY = 86400.0


class Team:
    """Keepers in processes of their own, and a client that asks them."""

    def __init__(self, url, forked, foreign):
        self.url, self._forked, self.foreign = url, forked, foreign
        self._numbers = count(1)
        foreign.declare(ANSWERS)

    def start(self, *, level="info", **options):
        """Start a keeper; wait until it stands by."""

        def run():
            logs.set_up(LoggingSettings(level=level), "keeper")
            with Signals(SIGNALS) as signals:
                tell = lambda state: print(state, flush=True)  # noqa: E731 -- in a process of its own
                return Keeper(AmqpSettings.from_url(self.url), signals, tell, **options).run()

        started = self._forked(run)
        started.wait_for("stands by", timeout=30)
        return started

    def ask(self, key, workitem, *, follower=None):
        """Ask for a key, as often as is needed; return the verdict and the id of the owner."""
        (answer,) = self.ask_all([key], workitem, follower=follower)
        return answer

    def ask_all(self, keys, workitem, *, follower=None):
        """Ask for keys in one message; return the answers as `ask` does, in their order."""
        now = time.time()
        asks = [
            Ask(("echo", "", key), workitem, next(self._numbers), now, 0.0, now + DAY, follower=follower)
            for key in keys
        ]
        found, asked = {}, 0.0

        def answered():
            nonlocal asked
            if time.monotonic() >= asked + 2:
                asked = time.monotonic()
                self.foreign.publish(encode_asks(ANSWERS, asks), LOG)
            while (message := self.foreign.poll(ANSWERS)) is not None:
                found.update({each.number: each for each in decode_answers(message.body)})
            return found.keys() >= {each.number for each in asks}

        wait_until(answered, 60, f"answers about {keys}")
        return [(found[each.number].verdict, found[each.number].owner) for each in asks]

    def pass_through(self, name):
        """Ask for a key, and tell the end of its workitem, without waiting for the answer."""
        now = time.time()
        ask = Ask(("echo", "", name), name, next(self._numbers), now, 0.0, now + DAY)
        self.foreign.publish(encode_asks(ANSWERS, [ask]), LOG)
        self.end(name, name)

    def end(self, key, workitem, result=b"done"):
        said = Result("succeeded", "text/plain", result)
        self.foreign.publish(encode_end(("echo", "", key), workitem, time.time(), said), LOG)


@pytest.fixture
def team(amqp_url, forked, foreign):
    return Team(amqp_url, forked, foreign)


def submit(ground, workitem, key, **headers):
    marks = {"x-taskqueue-unique": key, **headers}
    ground.foreign.publish(b"x", "taskqueue", type="echo", message_id=workitem, application_headers=marks)


def test_a_key_that_is_the_workitems_own_id_stops_nothing_where_all_keys_are_in_use(
    ground, forked, monkeypatch
):
    monkeypatch.setattr(claims, "MOST_CLAIMS", 1)
    Team(ground.url, forked, ground.foreign).start()
    ground.foreign.declare("worker_echo")
    ground.start("dispatcher")
    submit(ground, "first", "key")
    wait_until(lambda: ground.foreign.depth("worker_echo") == 1)
    submit(ground, "second", "another key")
    wait_until(lambda: ground.foreign.depth("taskqueue_rejected") == 1)
    submit(ground, "tick", "tick", **{"x-taskqueue-unique-for": 60.0})
    wait_until(lambda: ground.foreign.depth("worker_echo") == 2)


def test_a_key_that_is_the_workitems_own_id_is_free_after_its_time_though_nobody_has_run_it():
    received = Properties(message_id="tick")
    kept = question(Unique(("echo", "", "tick"), unique_for=60.0), received, "tick", b"", None)
    assert kept.until == kept.kept_until == kept.time + 60
    assert (
        question(Unique(("echo", "", "key"), unique_for=60.0), received, "tick", b"", None).until > kept.until
    )


def active(keepers):
    """Return the keeper that answers."""
    said = [each for each in keepers if each.output().rstrip().rpartition("\n")[2].startswith("keeps")]
    return said[0] if said else None


def test_keys_outlive_keepers_that_are_killed_and_old_entries_are_replaced(team, broker, vhost):
    keepers = [team.start(most_entries=40) for _ in range(2)]
    held = {f"held {number}": f"first {number}" for number in range(30)}
    for key, workitem in held.items():
        assert team.ask(key, workitem) == (Verdict.MINE, workitem)
    for number in range(150):
        assert team.ask("short", f"short {number}") == (Verdict.MINE, f"short {number}")
        team.end("short", f"short {number}")
        if number % 30 == 15:
            killed = wait_until(lambda: active(keepers), 20, "a keeper that is active")
            os.kill(killed.pid, signal.SIGKILL)
            keepers.remove(killed)
            keepers.append(team.start(most_entries=40))
    for key, workitem in held.items():
        assert team.ask(key, "second") == (Verdict.TAKEN, workitem)
        team.end(key, workitem)
        assert team.ask(key, "second") == (Verdict.MINE, "second")
    wait_until(lambda: 0 < broker.messages(vhost, LOG) < 200, what="snapshots of more than 500 entries")
    for each in keepers:
        os.kill(each.pid, signal.SIGKILL)
    assert not any("Traceback" in each.output() for each in keepers)


def test_a_question_that_makes_a_keeper_active_is_answered_although_it_is_asked_once(team, foreign):
    """It is in the log before the keeper leads; a dispatcher asks again after seconds, and ever later."""
    team.start()
    now = time.time()
    ask = Ask(("echo", "", "key"), "first", 7, now, 0.0, now + DAY)
    foreign.publish(encode_asks(ANSWERS, [ask]), LOG)
    (answer,) = decode_answers(foreign.get(ANSWERS, 20).body)
    assert (answer.number, answer.verdict, answer.owner) == (7, Verdict.MINE, "first")


def test_entries_are_replaced_before_they_are_old(team):
    keeper = team.start(level="debug", renew_after=0.5)
    assert team.ask("key", "first")[0] is Verdict.MINE
    keeper.wait_for("a snapshot replaces entries: 1")
    keeper.wait_for("a snapshot replaces entries: 2")  # the first snapshot itself
    assert team.ask("key", "second") == (Verdict.TAKEN, "first")
    before = keeper.output().count("a snapshot replaces")
    team.end("key", "first")
    wait_until(lambda: keeper.output().count("a snapshot replaces") > before)
    os.kill(keeper.pid, signal.SIGKILL)
    wait_until(lambda: not team.foreign.consumers(LOG))
    assert team.foreign.depth(LOG) <= 6  # two snapshots at most and the end: each has two messages


def test_a_keeper_that_takes_over_sends_the_results_that_nobody_has_sent(team, foreign):
    first = team.start()
    foreign.declare("follower")
    assert team.ask("key", "first")[0] is Verdict.MINE
    follower = Follower("follower", "call 2")
    assert team.ask("key", "second", follower=follower) == (Verdict.TAKEN, "first")
    os.kill(first.pid, signal.SIGKILL)
    wait_until(lambda: not foreign.consumers(LOG))
    team.end("key", "first", b"the result")
    team.start()
    answer = foreign.get("follower", 20)
    assert (answer.body, answer.correlation_id) == (b"the result", "call 2")
    assert answer.headers["x-taskqueue-duplicate-of"] == "first"


def test_a_result_that_is_not_told_yet_holds_up_no_snapshot_and_outlives_it(team, foreign, monkeypatch):
    monkeypatch.setattr(keeper, "_REPLY_TIMEOUT", 3600.0)  # seconds that it waits for room
    first = team.start(level="debug", most_entries=3)
    full = {"x-max-length": 1, "x-overflow": "reject-publish"}
    foreign.declare("follower", arguments=full)
    foreign.publish(b"in its place", "follower")
    assert team.ask("key", "first")[0] is Verdict.MINE
    follower = Follower("follower", "call 2")
    assert team.ask("key", "second", follower=follower) == (Verdict.TAKEN, "first")
    team.end("key", "first", b"the result")
    for turn in (1, 2):  # the second one replaces the first, which has the result
        for number in range(8):
            assert team.ask(f"{turn}-{number}", "w")[0] is Verdict.MINE
        wait_until(lambda turn=turn: first.output().count("a snapshot replaces entries") >= turn)
    os.kill(first.pid, signal.SIGKILL)
    wait_until(lambda: not foreign.consumers(LOG))
    assert foreign.get("follower").body == b"in its place"
    team.start()
    answer = foreign.get("follower", 20)
    assert (answer.body, answer.correlation_id) == (b"the result", "call 2")
    assert answer.headers["x-taskqueue-duplicate-of"] == "first"


def test_messages_that_are_none_hold_up_nothing(team, foreign):
    keeper = team.start()
    snapshot = {"kind": "snapshot", "id": "x"}
    bodies = [
        b"", b"\xff", b"[]", b"{}", b"[" * 100_000, b"x" * 1_000_000,
        *(json.dumps(each).encode() for each in (
            {"kind": "ask"}, {"kind": "ask", "asker": ANSWERS, "asks": [{"scope": 1}]}, {"kind": "unknown"},
            {"kind": "end", "scope": [1, 2], "id": 3}, {"kind": "void"}, {"kind": "told", "scope": []},
            {"kind": "routed", "claims": [5]}, {"kind": "owed"}, END | {"kind": "owed", "followers": [5]},
            snapshot, {"kind": "chunk", "id": "x", "chunks": 1},
            {"kind": "chunk", "id": "y", "chunks": 1, "claims": [5, [], [True, ["a", "b", "c"], {}]]},
            {"kind": "command"}, {"kind": "mark"},
        )),
    ]  # fmt: skip
    for body in bodies:
        foreign.publish(body, LOG)
    assert team.ask("key", "first")[0] is Verdict.MINE
    os.kill(keeper.pid, signal.SIGKILL)
    wait_until(lambda: not foreign.consumers(LOG))
    for body in bodies:
        foreign.publish(body, LOG)
    again = team.start()
    assert team.ask("key", "second") == (Verdict.TAKEN, "first")
    assert "Traceback" not in keeper.output() + again.output()


BIG = Follower("amq.rabbitmq.reply-to." + "x" * 230, "c" * 250)
END = {"kind": "end", "scope": ["echo", "", "key"], "id": "first", "time": 1.0, "status": "succeeded",
       "content_type": "text/plain", "is_whole": True}  # fmt: skip


@pytest.mark.parametrize(
    "change", [{"content_type": None}, {"status": "\ud800"}, {"time": "x"}, {"is_whole": "gone"}]
)
def test_an_end_that_lacks_something_ends_no_key(team, foreign, change):
    keeper = team.start(renew_after=0.5)
    foreign.declare("follower")
    assert team.ask("key", "first")[0] is Verdict.MINE
    follower = Follower("follower", "call 2")
    assert team.ask("key", "second", follower=follower) == (Verdict.TAKEN, "first")
    wrong = {name: value for name, value in {**END, **change}.items() if value != "gone"}
    foreign.publish(json.dumps(wrong), LOG)
    team.end("key", "first", b"the result")
    assert foreign.get("follower", 20).body == b"the result"
    assert "dropped from the log of claims" in keeper.output()


def test_no_name_of_a_queue_ends_a_keeper(team, foreign):
    keeper = team.start()
    wrong = product(["asker", "reply_to", "correlation_id"], ["x" * 300, "\ud800", chr(0xDC80)])
    for number, (place, text) in enumerate(wrong):
        key = f"key {number}"
        assert team.ask(key, "first")[0] is Verdict.MINE
        names = {"asker": ANSWERS, "reply_to": "follower", "correlation_id": "c"} | {place: text}
        follower = {"reply_to": names["reply_to"], "correlation_id": names["correlation_id"]}
        ask = {"scope": ["echo", "", key], "id": "second", "number": 1, "time": time.time(), "kept_until": 0,
               "until": 1e10, "debounce": 0, "is_settled": False,
               "follower": follower | {"is_call": False, "call_id": None}}  # fmt: skip
        foreign.publish(json.dumps({"kind": "ask", "asker": names["asker"], "asks": [ask]}), LOG)
        team.end(key, "first")
        assert team.ask(key, "third") == (Verdict.MINE, "third"), names
    assert "Traceback" not in keeper.output()


def test_a_dispatcher_whose_clock_is_days_ahead_frees_no_key(team, foreign):
    keeper = team.start()
    assert team.ask("key", "first")[0] is Verdict.MINE
    later = time.time() + 2 * DAY
    ask = Ask(("echo", "", "key"), "second", 1, later, 0.0, later + DAY)
    foreign.publish(encode_asks(ANSWERS, [ask]), LOG)
    assert team.ask("key", "third") == (Verdict.TAKEN, "first")
    assert "is the clock of a dispatcher wrong?" in keeper.output()


def test_claims_with_many_followers_fit_into_a_snapshot(team, foreign):
    """The broker takes 16 MiB in a message, and so does a keeper."""
    now = time.time()
    asks = [
        Ask(("echo", "", f"key {number % 500}"), f"{number}", number, now, 0.0, now + DAY, follower=BIG)
        for number in range(500 * 70)
    ]
    first = team.start(most_entries=100_000)
    for start in range(0, len(asks), 100):
        foreign.publish(encode_asks(ANSWERS, asks[start : start + 100]), LOG)
    assert team.ask("key 7", "late") == (Verdict.TAKEN, "7")  # so it has read them all
    second = team.start(level="debug", most_entries=10)
    os.kill(first.pid, signal.SIGKILL)
    second.wait_for("a snapshot replaces entries", timeout=60)
    assert team.ask("key 7", "late") == (Verdict.TAKEN, "7")


def test_a_keeper_that_is_told_to_end_hands_the_log_over_in_order(team):
    """An end that the next keeper read before its question would leave the key in use for a day."""
    keepers = [team.start(), team.start()]
    team.ask("key", "first")
    for turn in range(4):
        leaving = wait_until(lambda: active(keepers), 20, "a keeper that is active")
        names = [f"{turn}-{number}" for number in range(200)]
        for name in names:
            team.pass_through(name)
            if name == names[70]:
                leaving.signal(signal.SIGTERM)
        assert leaving.wait() == 0
        keepers.remove(leaving)
        keepers.append(team.start())
        answers = team.ask_all(names, "another")
        assert not [name for name, (said, _) in zip(names, answers, strict=True) if said is not Verdict.MINE]
