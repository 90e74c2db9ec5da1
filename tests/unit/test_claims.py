"""The claims on keys: who gets a key, whatever is asked twice, lost or late."""

import json
from dataclasses import asdict, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.examples import examples

from taskqueue.errors import BadClaim
from taskqueue.unique import claims as claims_module
from taskqueue.unique.claims import Claims
from taskqueue.unique.wire import (
    Ask,
    Follower,
    Result,
    Verdict,
    decode,
    encode,
    encode_asks,
    encode_end,
    encode_routed,
)

DAY = 86400.0
SCOPE = ("digest", "acme", "key")
FOLLOWER = Follower("answers", "call 2")


class Desk:
    """Claims, and who asks for them, by the messages that go over the wire."""

    def __init__(self):
        self.claims = Claims()
        self.log = []

    def apply(self, body):
        self.log.append(body)
        return self.claims.apply(decode(body).head)

    def ask(self, workitem, at=0.0, *, asker="one", number=None, scope=SCOPE, **options):
        number = number if number is not None else len(self.log) + 1
        ask = Ask(scope, workitem, number, at, **{"kept_until": 0.0, "until": at + DAY} | options)
        effect = self.apply(encode_asks(asker, [ask]))
        return {who: (answer.verdict, answer.owner) for who, answer in effect.answers}, effect

    def verdict(self, workitem, at=0.0, **options):
        answers, _ = self.ask(workitem, at, **options)
        return answers.get(options.get("asker", "one"), (None,))[0]

    def routed(self, workitem, scope=SCOPE):
        return self.apply(encode_routed([(scope, workitem)]))

    def void(self, asker, number=None):
        return self.apply(encode({"kind": "void", "asker": asker, "number": number}))

    def end(self, workitem, at=0.0, scope=SCOPE, *, token=None):
        result = Result("succeeded", "text/plain", b"done")
        return self.apply(encode_end(scope, workitem, at, result, token=token))


@pytest.fixture
def desk():
    return Desk()


def test_the_first_gets_the_key_and_others_are_told_who_has_it(desk):
    assert desk.ask("a")[0] == {"one": (Verdict.MINE, "a")}
    assert desk.ask("b", asker="two")[0] == {"two": (Verdict.TAKEN, "a")}
    for scope in (("digest", "acme", "other"), ("digest", "", "key"), ("echo", "acme", "key")):
        assert desk.verdict("c", scope=scope) is Verdict.MINE


def test_the_end_frees_the_key_only_if_it_is_that_of_its_workitem(desk):
    desk.ask("a")
    desk.end("b")
    assert desk.verdict("c") is Verdict.TAKEN
    desk.end("a")
    assert desk.verdict("c") is Verdict.MINE


def test_a_key_stays_taken_for_as_long_as_was_asked(desk):
    desk.ask("a", 100.0, kept_until=160.0)
    desk.end("a", 110.0)
    _, effect = desk.ask("b", 159.0, follower=FOLLOWER)
    ((_, answer),) = effect.answers
    assert (answer.verdict, answer.ended, answer.is_followed) == (Verdict.TAKEN, 110.0, False)
    assert desk.verdict("c", 160.0) is Verdict.MINE


def test_a_key_is_free_after_its_longest_time_though_no_end_is_known(desk):
    desk.ask("a", 0.0)
    desk.routed("a")
    assert desk.verdict("b", DAY - 1) is Verdict.TAKEN
    assert desk.verdict("b", DAY) is Verdict.MINE


def test_followers_get_the_result_once(desk):
    desk.ask("a")
    for number in (2, 2, 3):  # one of them asks twice
        desk.ask(f"b{number}", follower=Follower("answers", f"call {number}"), number=number)
    effect = desk.end("a")
    assert [each.correlation_id for each in effect.followers] == ["call 2", "call 3"]
    assert desk.end("a").followers == ()


def test_followers_of_a_workitem_are_bounded(desk, monkeypatch):
    monkeypatch.setattr(claims_module, "MOST_FOLLOWERS", 2)
    desk.ask("a")
    followed = [desk.ask(f"b{n}", follower=FOLLOWER)[1].answers[0][1].is_followed for n in range(3)]
    assert followed == [True, True, False]


def test_claims_are_bounded_and_those_that_are_over_make_room(desk, monkeypatch):
    monkeypatch.setattr(claims_module, "MOST_CLAIMS", 2)
    scopes = [("digest", "", str(number)) for number in range(4)]
    desk.ask("a0", 0.0, scope=scopes[0], until=10.0)
    desk.ask("a1", 0.0, scope=scopes[1])
    assert desk.verdict("a2", 60.0, scope=scopes[2]) is Verdict.FULL
    assert desk.verdict("a3", 100.0, scope=scopes[3]) is Verdict.MINE


# --- what is delivered again ---


def test_a_workitem_that_was_routed_is_not_routed_again(desk):
    desk.ask("a")
    desk.routed("a")
    assert desk.verdict("a", asker="two") is Verdict.HERE


def test_a_workitem_that_its_dispatcher_still_has_waits_for_what_becomes_of_it(desk):
    desk.ask("a", asker="one", number=1)
    answers, _ = desk.ask("a", asker="two", number=5)
    assert answers == {"one": (Verdict.MINE, "a")}  # who has it, is asked
    assert [(who, answer.verdict) for who, answer in desk.routed("a").answers] == [("two", Verdict.HERE)]


def test_a_workitem_whose_dispatcher_has_ended_is_routed_by_the_next_one(desk):
    desk.ask("a", asker="one", number=1)
    desk.ask("a", asker="two", number=5)
    ((who, answer),) = desk.void("one").answers
    assert (who, answer.number, answer.verdict) == ("two", 5, Verdict.MINE)
    assert desk.verdict("b", asker="three") is Verdict.TAKEN


def test_a_dispatcher_that_has_forgotten_a_workitem_lets_it_be_routed_anew(desk):
    desk.ask("a", asker="one", number=1)
    desk.void("one", 1)
    assert desk.verdict("b", asker="two") is Verdict.TAKEN  # the broker delivers the first one again
    assert desk.verdict("a", asker="two") is Verdict.MINE


def test_a_claim_that_nobody_will_route_ends_after_minutes(desk):
    desk.ask("a", 0.0, asker="one", number=1)
    answers, _ = desk.ask("b", 70.0, asker="two")
    assert answers == {"two": (Verdict.TAKEN, "a"), "one": (Verdict.MINE, "a")}
    desk.void("one")
    assert desk.verdict("b", 299.0) is Verdict.TAKEN
    assert desk.verdict("b", 300.0) is Verdict.MINE


def test_a_void_after_the_routing_changes_nothing(desk):
    desk.ask("a", asker="one", number=1)
    desk.routed("a")
    assert not desk.void("one").is_change
    assert desk.verdict("a", asker="two") is Verdict.HERE


# --- tokens ---


def is_free(desk):
    return desk.verdict("another", asker="another", token="another") is Verdict.MINE


@pytest.mark.parametrize("token", ["", "guessed", ["t"], {"t": 1}, 5])
def test_an_end_without_the_token_of_the_claim_frees_no_key_and_tells_no_follower(desk, token):
    desk.ask("a", token="t")
    desk.routed("a")
    desk.ask("b", follower=FOLLOWER)
    assert not desk.end("a", token=token).is_change
    assert not is_free(desk)
    assert desk.end("a", token="t").followers == (FOLLOWER,)
    assert not desk.end("a", token="t").is_change  # it ran twice
    assert is_free(desk)


def test_each_question_that_may_have_been_routed_has_a_token_that_frees_the_key():
    for token in ("first", "second"):
        desk = Desk()
        desk.ask("a", asker="one", token="first")
        desk.ask("a", asker="two", token="second")
        desk.void("one")  # it has ended; perhaps it had published the workitem before
        desk.routed("a")
        desk.ask("a", asker="three", token="third")  # a copy that is dropped
        desk.end("a", token="third")
        assert not is_free(desk)
        desk.end("a", token=token)
        assert is_free(desk)


def test_of_many_questions_the_first_and_the_last_ones_count(desk):
    for number in range(50):
        desk.ask("a", asker=f"{number}", token=f"{number}")
    (claim,) = desk.claims.running.values()
    assert claim.tokens == ("0", *(str(number) for number in range(41, 50)))


def test_a_consumer_of_an_earlier_release_tells_no_token_and_frees_the_key(desk):
    desk.ask("a", token="t")
    desk.end("a")
    assert is_free(desk)


@pytest.mark.parametrize("token", ["", "any", None])
def test_a_workitem_that_an_earlier_release_may_have_routed_needs_no_token(token):
    for askers in (("one", ""), ("one", "two")), (("one", "t"), ("two", "")):
        desk = Desk()
        for asker, said in askers:
            desk.ask("a", asker=asker, token=said)
        desk.routed("a")
        desk.end("a", token=token)
        assert is_free(desk)


def test_a_question_and_a_snapshot_of_an_earlier_release_have_no_token():
    first, second = Desk(), Desk()
    plain = asdict(Ask(SCOPE, "a", 1, 0.0, 0.0, DAY))
    del plain["token"]
    first.apply(encode({"kind": "ask", "asker": "one", "asks": [plain]}))
    first.routed("a")
    ((is_waiting, scope, fields),) = first.claims.as_json()
    assert fields.pop("tokens") == ()
    second.claims.add_json([is_waiting, scope, fields])
    for desk in (first, second):
        assert not is_free(desk)
        desk.end("a", token="")
        assert is_free(desk)


def test_a_debounced_workitem_has_the_token_of_its_second_question(desk):
    desk.ask("a", debounce=5.0, token="waits")
    desk.routed("a")
    desk.ask("a", 5.0, debounce=5.0, is_settled=True, token="runs")
    desk.end("a", token="waits")
    assert not is_free(desk)
    desk.end("a", token="runs")
    assert is_free(desk)


# --- debounce ---


def test_of_debounced_workitems_the_last_one_runs(desk):
    for number in (1, 2, 3):
        _, effect = desk.ask(
            f"a{number}", debounce=5.0, number=number, follower=replace(FOLLOWER, correlation_id=str(number))
        )
        assert [(each.verdict, each.wait) for _, each in effect.answers] == [(Verdict.MINE, 5.0)]
        desk.routed(f"a{number}")
    settled = {"debounce": 5.0, "is_settled": True}
    assert [desk.verdict(f"a{number}", 5.0, **settled) for number in (1, 2)] == [Verdict.TAKEN] * 2
    assert desk.verdict("a3", 5.0, **settled) is Verdict.MINE
    assert [each.correlation_id for each in desk.end("a3").followers] == ["1", "2"]


def test_a_debounced_workitem_waits_until_the_one_that_runs_is_over(desk):
    desk.ask("a")
    desk.routed("a")
    desk.ask("b", debounce=5.0)
    assert desk.verdict("b", 5.0, debounce=5.0, is_settled=True) is Verdict.LATER
    desk.end("a")
    assert desk.verdict("b", 10.0, debounce=5.0, is_settled=True) is Verdict.MINE


# --- as a log ---

IDS = st.sampled_from("abcd")
ENTRIES = st.one_of(
    st.tuples(st.just("ask"), IDS, st.sampled_from(["one", "two"]), st.booleans(), st.booleans()),
    st.tuples(st.just("routed"), IDS),
    st.tuples(st.just("void"), st.sampled_from(["one", "two"])),
    st.tuples(st.just("end"), IDS, st.sampled_from([None, "one", "two", "forged"])),
)


def play(desk, entry, at):
    match entry:
        case ("ask", workitem, asker, is_debounced, is_settled):
            options = {"debounce": 5.0, "is_settled": is_settled} if is_debounced else {}
            options |= {"follower": replace(FOLLOWER, correlation_id=workitem)}
            options |= {"token": "" if workitem == "c" else asker}
            return desk.ask(
                workitem, at, asker=asker, kept_until=at + 3 if workitem == "d" else 0.0, **options
            )[1]
        case ("routed", workitem):
            return desk.routed(workitem)
        case ("void", asker):
            return desk.void(asker)
        case (_, workitem, token):
            return desk.end(workitem, at, token=token)


def shown(claims):
    return json.dumps(list(claims.as_json()), sort_keys=True)


@examples(150)
@given(st.lists(ENTRIES, max_size=30), st.data())
def test_a_keeper_that_takes_over_at_any_entry_knows_the_same_and_no_key_is_given_twice(entries, data):
    desk = Desk()
    place = data.draw(st.integers(0, len(entries)))
    other = Desk()
    granted = set()
    for number, entry in enumerate(entries):
        if number == place:
            for plain in json.loads(json.dumps(list(desk.claims.as_json()))):
                other.claims.add_json(plain)
        effect = play(desk, entry, float(number))
        if number >= place:
            other.apply(desk.log[-1])
            assert shown(other.claims) == shown(desk.claims)
        if entry[0] == "end" and (entry[2] != "forged" or entry[1] == "c"):
            granted.discard(entry[1])
        for _, answer in effect.answers:
            if answer.verdict is Verdict.MINE and not answer.wait:
                granted.add(answer.owner)
        assert len(granted) <= 1, entries


@examples(60)
@given(st.lists(ENTRIES, max_size=30))
def test_an_entry_without_a_change_changes_nothing(entries):
    desk = Desk()
    for number, entry in enumerate(entries):
        before = shown(desk.claims)
        effect = play(desk, entry, float(number))
        assert effect.is_change or shown(desk.claims) == before


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"kind": 5}', b"\xff\n", b"[" * 100_000])
def test_a_message_that_is_none_is_an_error(body):
    with pytest.raises(BadClaim):
        decode(body)


@pytest.mark.parametrize(
    "head", [{"kind": "ask"}, {"kind": "ask", "asker": "x", "asks": [{}]}, {"kind": "end", "scope": [1]}]
)
def test_an_entry_that_lacks_something_is_an_error(head):
    with pytest.raises((KeyError, TypeError, ValueError)):
        Claims().apply(head)


def test_asks_are_what_they_were_after_the_wire():
    ask = Ask(SCOPE, "\udc80id", 1, 2.0, 3.0, 4.0, 5.0, is_settled=True, follower=FOLLOWER, token="t")
    assert Ask.of_json(json.loads(json.dumps(asdict(ask)))) == ask
