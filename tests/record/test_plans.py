"""The plans of the statements that count and list workitems in SQLite: what they read."""

import contextlib
import sqlite3
from dataclasses import replace

import pytest

from taskqueue.messages.events import FAILED, LOST, SUCCEEDED
from taskqueue.monitor.record import Filter
from taskqueue.monitor.store import schema
from taskqueue.monitor.store.query import done_queries

TYPE, TENANT = frozenset(["mail"]), frozenset(["acme"])
NUMBERS = {"": 0, "mail": 1, "acme": 2}


@pytest.fixture
def plan_of(tmp_path):
    """Return the plan of a statement for a day's file."""
    path = tmp_path / "2025-01-01.failed.db"
    with contextlib.closing(schema.open_for_writing(path, schema.DAY)) as database:
        yield lambda text, values: [row[3] for row in database.execute(f"EXPLAIN QUERY PLAN {text}", values)]


@pytest.mark.parametrize("state", [SUCCEEDED, FAILED, LOST])
@pytest.mark.parametrize(
    "wanted",
    [Filter(worker_types=TYPE), Filter(tenants=TENANT), Filter(worker_types=TYPE, tenants=TENANT)],
    ids=["type", "tenant", "both"],
)
def test_a_count_of_a_type_or_tenant_reads_indexes_and_no_rows(plan_of, state, wanted):
    wanted = replace(wanted, states=frozenset([state]), since=1.0, until=2e9)
    (query,) = done_queries(wanted, NUMBERS, FAILED if state == LOST else state)
    plan = [line for line in plan_of(*query.count(10)) if line.startswith(("SEARCH", "SCAN"))]
    done = [line for line in plan if line.split()[1] in {"done", "typed"}]
    if state == LOST:  # few: their rows are read
        assert any("INDEX done_lost (state=? AND rowid>? AND rowid<?)" in line for line in done)
    else:
        assert done
        assert all("COVERING INDEX" in line for line in done), done
    assert not any(line.startswith("SCAN done") for line in plan), plan
    if len(done) > 1 and wanted.tenants and wanted.worker_types and state == SUCCEEDED:
        assert any("done_type (type=? AND rowid=?)" in line for line in done), done


def test_lost_workitems_are_found_without_reading_those_that_failed(plan_of):
    wanted = Filter(states=frozenset([LOST]))
    (query,) = done_queries(wanted, NUMBERS, FAILED)
    (line,) = plan_of(*query.rows(2**62, 50))
    assert "USING INDEX done_lost (state=? AND rowid<?)" in line
    (counted, *_) = [line for line in plan_of(*query.count(10)) if "done" in line]
    assert "done_lost" in counted


def test_the_states_of_a_file_with_one_state_are_not_looked_at():
    (query,) = done_queries(Filter(states=frozenset([SUCCEEDED, FAILED])), NUMBERS, SUCCEEDED)
    assert "state" not in query.count(10)[0]


def test_a_file_of_the_second_version_gets_the_index(tmp_path):
    path = tmp_path / "2025-01-01.failed.db"
    schema.open_for_writing(path, schema.DAY[:2]).close()
    schema.open_for_writing(path, schema.DAY).close()
    with contextlib.closing(sqlite3.connect(path)) as database:
        assert database.execute("SELECT 1 FROM done INDEXED BY done_lost WHERE state = 8").fetchall() == []
