"""Sessions of the monitor's pages: they end, and their number is bounded."""

from taskqueue.monitor.web import sessions
from taskqueue.monitor.web.rights import OWN_RIGHTS
from taskqueue.monitor.web.sessions import IDLE, LONGEST, MOST, Sessions
from taskqueue.monitor.web.users import of_token

ACCOUNT = of_token(OWN_RIGHTS, "tq_x")


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def test_a_session_lasts_while_it_is_used():
    clock = Clock()
    table = Sessions(clock)
    secret = table.begin(ACCOUNT)
    clock.now += IDLE
    assert table.account(secret) == ACCOUNT
    clock.now += IDLE
    assert table.account(secret) == ACCOUNT
    clock.now += IDLE + 1
    assert table.account(secret) is None
    assert len(table) == 0


def test_a_session_ends_in_any_case():
    clock = Clock()
    table = Sessions(clock)
    secret = table.begin(ACCOUNT)
    while clock.now <= 1000 + LONGEST:
        assert table.account(secret) == ACCOUNT
        clock.now += IDLE
    assert table.account(secret) is None


def test_a_session_that_was_ended_or_never_began_has_no_account():
    table = Sessions()
    secret = table.begin(ACCOUNT)
    table.end(secret)
    assert table.account(secret) is table.account("") is table.account("\udcff") is None


def test_of_too_many_sessions_the_one_unused_for_longest_ends(monkeypatch):
    monkeypatch.setattr(sessions, "MOST", 3)
    table = Sessions()
    first, second, third = (table.begin(ACCOUNT) for _ in range(3))
    assert table.account(first)
    table.begin(ACCOUNT)
    assert len(table) == 3 < MOST
    assert table.account(second) is None
    assert table.account(first)
    assert table.account(third)
