"""Actions of the monitor: asked for over the recorder's socket, done on the real broker, in the audit."""

import contextlib
import json
import sqlite3
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.deadletters import FAILED, keep, left
from support.desk import EVERYTHING, OWN, Desk, desk_over_letters
from support.foreign import Foreign
from support.forked import Forked
from support.processes import run_cli

from taskqueue.monitor.asking import ActionFailed
from taskqueue.monitor.record import Filter
from taskqueue.monitor.web import users
from taskqueue.monitor.web.rights import NoRight, Rights
from taskqueue.monitor.web.users import UserError


@pytest.fixture
def desk(tmp_path: Path, forked: Callable[..., Forked], amqp_url: str, foreign: Foreign) -> Desk:
    return desk_over_letters(tmp_path / "record", forked, amqp_url, foreign)


def test_a_dry_run_counts_and_does_nothing(desk: Desk, foreign: Foreign) -> None:
    assert desk.ask("retry", where=EVERYTHING, dry=True) == 4
    assert desk.ask("purge", where=Filter(worker_types=frozenset(("mail",))), dry=True) == 1
    assert desk.ask("cancel", where=EVERYTHING, dry=True) == 2
    assert desk.ask("retry", "a", "g", "unknown", dry=True) == 1
    assert left(foreign, 3) == ["a", "b", "c"]
    assert desk.audit() == []


def test_a_retry_of_ids_sends_them_back_and_is_in_the_audit(desk: Desk, foreign: Foreign) -> None:
    assert desk.ask("retry", "a", "d") == 2
    retried = {message.properties["message_id"]: message for message in foreign.collect("worker_digest", 2)}
    assert sorted(retried) == ["a", "d"]
    assert retried["a"].headers["x-taskqueue-tenant"] == "north"
    assert left(foreign, 2) == ["b", "c"]
    (row,) = desk.audit()
    assert (row.user, row.action, json.loads(row.filter), row.count) == (
        "eve",
        "retry",
        {"ids": ["a", "d"]},
        2,
    )
    assert abs(row.at - time.time()) < 60


def test_a_purge_by_filter_removes_what_it_selects_and_no_more(desk: Desk, foreign: Foreign) -> None:
    assert desk.ask("purge", where=Filter(worker_types=frozenset(("digest",)), error_text="ValueError")) == 2
    assert left(foreign, 1) == ["c"]
    (row,) = desk.audit()
    assert json.loads(row.filter) == {"type": ["digest"], "error": "ValueError"}


def test_a_cancellation_reaches_consumers(desk: Desk, foreign: Foreign) -> None:
    foreign.declare("taskqueue_cancel")
    foreign.bind("taskqueue_cancel")
    assert desk.ask("cancel", where=EVERYTHING) == 2
    told = [message.properties["correlation_id"] for message in foreign.collect("taskqueue_cancel", 2)]
    assert sorted(told) == ["e", "f"]


def test_a_limited_operator_acts_only_on_what_he_sees(desk: Desk, foreign: Foreign) -> None:
    assert desk.ask("purge", where=EVERYTHING, user="ann") == 1
    assert desk.ask("purge", "a", "b", "c", "d", user="ann") == 0
    assert desk.ask("cancel", "e", "f", user="ann", dry=True) == 1
    assert left(foreign, 2) == ["b", "c"]


def test_a_limited_operator_acts_on_no_letter_of_another_tenant_with_the_same_id(
    desk: Desk, foreign: Foreign
) -> None:
    keep(foreign, "a", tenant="south")
    assert desk.ask("purge", "a", user="ann") == 1
    assert left(foreign, 3) == ["b", "c", "a"]


def test_a_purge_by_tenant_removes_no_letter_of_another_tenant_with_the_same_id(
    desk: Desk, foreign: Foreign
) -> None:
    keep(foreign, "a", tenant="south")
    assert desk.ask("purge", where=Filter(tenants=frozenset(("north",)))) == 1
    assert left(foreign, 3) == ["b", "c", "a"]


@pytest.mark.parametrize("user", ["bob", "nobody", ""])
def test_the_right_is_checked_here_again(desk: Desk, foreign: Foreign, user: str) -> None:
    with pytest.raises(NoRight):
        desk.ask("purge", where=EVERYTHING, user=user)
    assert foreign.depth(FAILED) == 3
    assert [row.count for row in desk.audit()] == [0], "the attempt is in the audit"


def test_the_token_of_up_may_act_and_no_user_can_have_its_name(desk: Desk) -> None:
    with pytest.raises(UserError):
        users.user(Rights(OWN.user), "correct horse")
    assert desk.ask("retry", where=EVERYTHING, user=OWN.user, dry=True) == 4


def test_a_user_without_the_right_to_see_bodies_cannot_choose_by_them(desk: Desk) -> None:
    with pytest.raises(NoRight, match="may not see bodies"):
        desk.ask("purge", where=Filter(body_text="x"), dry=True)


@pytest.mark.parametrize(
    "line",
    [b"", b"{}", b"[]", b"null", b"nonsense", b"\xff", b"[" * 100_000,
     b'{"user": 1, "action": "retry", "ids": ["a"]}',
     b'{"user": "eve", "action": "drop", "ids": ["a"]}', b'{"user": "eve", "action": "retry"}',
     b'{"user": "eve", "action": "retry", "filter": {"state": ["x"]}}',
     b'{"user": "eve", "action": "retry", "ids": ["a"], "role": "admin"}'],
)  # fmt: skip
def test_a_bad_request_is_answered_and_the_next_one_served(desk: Desk, line: bytes) -> None:
    assert desk.send(line + b"\n")["kind"] == "request"
    assert desk.ask("retry", where=EVERYTHING, dry=True) == 4


def test_a_request_without_an_end_is_dropped(desk: Desk) -> None:
    with contextlib.suppress(ConnectionError):
        assert desk.send(b"x" * 3_000_000) is None
    assert desk.ask("retry", where=EVERYTHING, dry=True) == 4


def test_only_owner_and_group_may_ask(desk: Desk) -> None:
    assert stat.S_IMODE(desk.socket.stat().st_mode) == 0o660


def test_without_a_broker_an_action_fails_in_a_line(tmp_path: Path, forked: Callable[..., Forked]) -> None:
    desk = Desk(tmp_path / "record", forked, "amqp://guest:guest@127.0.0.1:1/")
    with pytest.raises(ActionFailed, match="cannot be reached"):
        desk.ask("retry", "a")
    (row,) = desk.audit()
    assert row.action.startswith("retry: the broker at 127.0.0.1:1 cannot be reached")


def test_a_cancellation_names_the_tenant(desk: Desk, foreign: Foreign, amqp_url: str) -> None:
    foreign.declare("taskqueue_cancel")
    foreign.bind("taskqueue_cancel")

    def told() -> tuple[str, str | None]:
        message = foreign.get("taskqueue_cancel")
        return message.properties["correlation_id"], (message.headers or {}).get("x-taskqueue-tenant")

    assert desk.ask("cancel", "e") == 1
    assert told() == ("e", "north")
    done = run_cli("cancel", "x", "--tenant", "south", env={"TASKQUEUE_AMQP": amqp_url})
    assert done.stdout == "sent 1 cancellation to the consumers that are connected\n"
    assert told() == ("x", "south")
    run_cli("cancel", "x", env={"TASKQUEUE_AMQP": amqp_url})
    assert told() == ("x", None)


def test_the_command_cancels_at_the_broker(foreign: Foreign, amqp_url: str) -> None:
    done = run_cli("cancel", "x", "y", env={"TASKQUEUE_AMQP": amqp_url})
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "sent 2 cancellations to the consumers that are connected\n"


def test_an_audit_that_cannot_be_written_costs_neither_the_answer_nor_the_recorder(
    desk: Desk, foreign: Foreign
) -> None:
    with contextlib.closing(sqlite3.connect(desk.directory / "live.db", isolation_level=None)) as database:
        database.execute("ALTER TABLE action RENAME TO gone")
    assert desk.ask("purge", "a") == 1
    assert desk.ask("purge", "b") == 1
