"""Signed commands: what a controller heeds, and what it refuses."""

import json
import time

import pytest

from taskqueue.control import seal
from taskqueue.control.directives import MOST_NAMES, Directive, Directives
from taskqueue.control.seal import Guard, Stale, Unsealed
from taskqueue.control.survey import Survey

KEY, OTHER = b"k" * 43, b"o" * 43


def resealed(body, **changed):
    """Return a message with other content, signed anew by the key: as another version of taskqueue would."""
    text = json.dumps(json.loads(body.partition(b"\n")[2]) | changed).encode()
    return seal._sign(KEY, text) + b"\n" + text


def test_what_the_key_has_signed_is_read():
    body = seal.seal(KEY, "command", {"verb": "ps"})
    content = seal.unseal(KEY, "command", body)
    assert content["verb"] == "ps"
    assert content["time"] == pytest.approx(time.time(), abs=60)
    assert content["id"] != seal.unseal(KEY, "command", seal.seal(KEY, "command", {}))["id"]


def test_the_signature_is_that_of_openssl():
    """From `printf '{}' | openssl dgst -sha256 -hmac kkk...` (43 times k)."""
    assert seal._sign(KEY, b"{}").decode() == EXPECTED


EXPECTED = "ca6b6528035fa3aed502aae70f43ac41201e78ae7d51468ff7af0cad7c47d110"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "it is not signed by this host's control key"),
        (b"x" * 64 + b"\n{}", "it is not signed by this host's control key"),
        ("\u00e9".encode() * 32 + b"\n{}", "it is not signed by this host's control key"),
        (seal.seal(OTHER, "command", {}), "it is not signed by this host's control key"),
        (seal.seal(KEY, "command", {"n": 1}).replace(b'"n": 1', b'"n": 2'), "it is not signed by"),
        (seal.seal(KEY, "answer", {}), "it is no command"),
        (resealed(seal.seal(KEY, "command", {}), version=2), "it has version 2, and this host knows 1"),
        (b"x" * (seal.LARGEST + 1), "it has 4194305 bytes"),
    ],
)
def test_what_it_has_not_signed_so_is_refused(body, reason):
    with pytest.raises(Unsealed, match=reason):
        seal.unseal(KEY, "command", body)


def test_a_command_is_obeyed_once_and_while_it_is_fresh(monkeypatch):
    guard, now = Guard(), time.time()
    guard.check({"id": "a", "time": now})
    with pytest.raises(Unsealed, match="it was here before"):
        guard.check({"id": "a", "time": now})
    with pytest.raises(Stale, match=r"it is 6\d s old; .* do the clocks of the hosts agree\?"):
        guard.check({"id": "b", "time": now - 65})
    with pytest.raises(Stale, match=r"it is \d\d s ahead of this host's clock"):
        guard.check({"id": "b", "time": now + 65})
    monkeypatch.setattr(seal, "_MOST_SEEN", 2)
    guard.check({"id": "ahead", "time": now + 50})
    with pytest.raises(Unsealed, match="there were 2 in 120 s"):
        guard.check({"id": "c", "time": now})


def test_a_command_that_is_forgotten_is_too_old_by_then():
    now = time.time()
    clock, steady = iter([now, now + 125, now + 125]), iter([7.0, 7.0, 132.0, 132.0])
    guard = Guard(clock.__next__, steady.__next__)
    guard.check({"id": "ahead", "time": now + 59})
    guard.check({"id": "other", "time": now + 125})
    assert "ahead" not in guard._seen
    with pytest.raises(Stale):
        guard.check({"id": "ahead", "time": now + 59})


def test_standing_commands_are_a_document_that_counts_on_and_drops_what_is_over():
    now = time.time()
    pause, brief = Directive("root@web1", now), Directive("root@web1", now, now - 1)
    first = Directives().with_host("web1").with_pause("digest", pause).with_pause("over", brief)
    first = first.with_drain("web1", Directive("root@web2", now)).next_document()
    again = Directives.of_json(json.loads(json.dumps(first.as_json())))
    assert again == first
    assert (again.sequence, again.paused(now), list(again.pauses)) == (1, ["digest"], ["digest"])
    later = again.with_pause("timed", Directive("x", now, now + 10)).next_document()
    assert (later.sequence, later.next_end(now), later.paused(now + 10)) == (2, now + 10, ["digest"])
    assert later.id != again.id
    assert later.without_host("web1").drained == {}
    assert later.with_host("web1") is later
    assert later.with_pause("digest", None).with_pause("timed", None).pauses == {}
    assert Directives(hosts=dict.fromkeys(map(str, range(MOST_NAMES + 1)), now)).is_full()


class Clock:
    """A loop of which only timers count."""

    def __init__(self):
        self.timers = []

    def call_later(self, _delay, callback):
        self.timers.append(callback)
        return callback

    def cancel(self, timer):
        self.timers.remove(timer)


def group(name, consumer, *pids):
    workers = [{"name": f"{name}/{pid}", "pid": pid, "does": "starts"} for pid in pids]
    about = {"name": name, "type": name, "state": "", "pid": consumer}
    return about | {"workers": workers, "ends": False}


def test_a_survey_ends_with_the_last_answer_or_without_who_is_silent():
    clock, ended = Clock(), []
    survey = Survey(clock, ended.append)
    survey.take("done", {"fault": ""})
    survey.take("group", group("a", 1, 11, 12))
    survey.take("group", group("b", 2, 21))
    survey.take("asked", {"consumers": [1, 2], "faults": ["why"], "roll": None})
    about = {"group": "a", "consumer": 1, "state": "works", "types": ["a"]}
    first = [{"pid": 11, "does": "idle"}, {"pid": 99, "does": "idle"}]
    survey.take("described", about | {"workers": first, "more": True})
    survey.take("described", about | {"workers": [{"pid": 12, "does": "works"}], "more": False})
    assert not ended
    (silent,) = clock.timers
    silent()
    ((first, second),) = ended
    assert [each["does"] for each in first["workers"]] == ["idle", "works"]
    assert (first["state"], second["state"], second["workers"][0]["does"]) == ("works", "", "starts")
    assert survey.faults == ["why"]
    late = {"group": "b", "consumer": 2, "state": "", "types": [], "workers": [], "more": False}
    survey.take("described", late)
    assert len(ended) == 1


def test_a_survey_of_a_pool_without_consumers_ends_at_once():
    ended = []
    survey = Survey(Clock(), ended.append)
    survey.take("asked", {"consumers": [], "faults": [], "roll": None})
    assert ended == [[]]
