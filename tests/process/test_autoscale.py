"""A pool whose groups have a range of workers: more while workitems wait, fewer while workers are idle."""

import os
import signal

import pytest
from support.processes import children, name
from support.site import workers
from support.waiting import wait_until

SECTION = "[gated]\nworkers: 1..3\nscale_up_after: 1\nscale_down_after: 2"


@pytest.fixture
def submit(site, work):
    def submit(number):
        return [work.submit("gated", {"gate": str(site.gate())}) for _ in range(number)]

    return submit


def begun(site):
    """Return the workers that have begun a workitem and not ended it."""
    ended = {(note.workitem, note.pid) for note in site.notes() if note.word == "end"}
    return {note.pid for note in site.notes() if (note.workitem, note.pid) not in ended}


def test_a_group_grows_while_workitems_wait_and_shrinks_once_its_workers_are_idle(site, work, submit):
    pool = site.pool(SECTION)
    ids = submit(6)
    pool.wait_for("2 workers instead of 1;")
    pool.wait_for("3 workers instead of 2;")
    wait_until(lambda: len(workers(pool)) == 3 and begun(site) == workers(pool), 20)

    consumer = next(pid for pid in children(pool.pid) if name(pid) == "tq:gated")
    os.kill(consumer, signal.SIGKILL)  # its successor receives for as many
    wait_until(lambda: len(workers(pool)) == 3 and begun(site) & workers(pool) == workers(pool), 20)

    site.gate().touch()
    assert set(work.results(6)) == set(ids)
    pool.wait_for("1 worker instead of 3; 0 workitems wait")
    wait_until(lambda: len(workers(pool)) == 1)
    assert "restarting" not in pool.output().rpartition("1 worker instead")[2]


def test_a_worker_that_leaves_ends_its_workitem_first(site, work, submit):
    """It leaves at a reload with fewer workers at most; here because two of three have been idle."""
    pool = site.pool(f"{SECTION}\nmax_prefetch: 1")
    first = site.gate("first")
    quick = [work.submit("gated", {"gate": str(first)}) for _ in range(2)]
    slow = work.submit("gated", {"gate": str(site.gate())})
    pool.wait_for("3 workers instead of 2;", timeout=20)
    wait_until(lambda: len(begun(site)) == 3)
    first.touch()
    assert set(work.results(2)) == set(quick)
    pool.wait_for("1 worker instead of 3;", timeout=20)
    site.gate().touch()
    assert set(work.results(1)) == {slow}
    assert len(site.notes(slow)) == 2
    wait_until(lambda: len(workers(pool)) == 1)


def test_no_group_grows_beyond_the_workers_that_the_host_may_have(site, work, submit):
    site.configure(f"{SECTION}\n[good]\nworkers: 1")
    text = site.config.read_text()
    site.config.write_text(text.replace("[workerpool]\n", "[workerpool]\nmax_total_workers: 3\n"))
    pool = site.pool()
    ids = submit(6)
    pool.wait_for("2 workers instead of 1;")
    wait_until(lambda: len(begun(site)) == 2)
    site.gate().touch()
    assert set(work.results(6)) == set(ids)
    assert "3 workers" not in pool.output().replace("2 workers and", "").partition("ready:")[2]
