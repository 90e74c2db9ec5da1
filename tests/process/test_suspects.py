"""A message that kills or blocks each consumer that handles it is counted, and put aside."""

from pathlib import Path

import pytest
from support.site import workers
from support.waiting import wait_until

from taskqueue.pool.suspects import Handling, Suspects
from taskqueue.properties import Properties

#: Puts a bug into a consumer that some workitems trigger; Python imports a module of that name by itself.
BUG = """
import os, signal
from taskqueue.pool import cancellations

takes = cancellations.Cancellations.takes

def faulty(self, workitem):
    if workitem.startswith("deadly"):
        os.kill(os.getpid(), signal.SIGKILL)
    while workitem.startswith("blocking"):
        pass
    return takes(self, workitem)

cancellations.Cancellations.takes = faulty
"""


@pytest.fixture
def variables(site):
    directory = site.directory / "bug"
    directory.mkdir()
    (directory / "sitecustomize.py").write_text(BUG)
    for path, mode in ((directory, 0o755), (directory / "sitecustomize.py", 0o644)):
        path.chmod(mode)
    return {"PYTHONPATH": f"{directory}:{site.plugins}"}


def publish(work, *ids):
    work.foreign.declare("worker_good")
    for each in ids:
        work.foreign.publish("1", "worker_good", message_id=each)


def test_a_message_that_kills_its_consumer_is_put_aside_and_its_neighbours_are_done(site, work, variables):
    ids = [f"harmless{number}" for number in range(5)]
    publish(work, *ids[:3], "deadly", *ids[3:])
    site.configure("[good]\nworkers: 1\nmax_crashes: 2")
    pool = site.start("workerpool", "-f", "-c", str(site.config), **variables)
    pool.wait_for("ready:")
    results = {}
    while len(results) < len(ids) + 1:  # a killed consumer may leave one that comes twice
        result = work.result()
        results[result.workitem] = result
    assert results.pop("deadly").error == (
        "ConsumerCrashed: 2 consumers died, or were killed, while they handled it"
    )
    assert {id_: result.status for id_, result in results.items()} == dict.fromkeys(ids, "succeeded")
    wait_until(lambda: work.foreign.depth("taskqueue_failed") == 1)
    kept = work.foreign.get("taskqueue_failed")
    assert (kept.properties["message_id"], kept.body) == ("deadly", "1")
    assert pool.output().count("the consumer handled a message when it ended") == 2
    assert pool.stop() == 0


def test_a_message_that_blocks_its_consumer_is_put_aside(site, work, variables):
    publish(work, "blocking", "harmless")
    site.configure("[good]\nworkers: 1\nmax_crashes: 1")
    pool = site.start("workerpool", "-f", "-c", str(site.config), **variables)
    results = work.results(2, 90)
    assert "1 consumers died, or were killed" in results["blocking"].error
    assert results["harmless"].status == "succeeded"
    pool.wait_for("the consumer handles one message for 30 s and is killed")
    assert pool.stop() == 0


def test_a_worker_cannot_write_what_its_consumer_handles(site, work):
    pool = site.pool("[good]\nworkers: 1")
    (worker,) = workers(pool)
    maps = Path(f"/proc/{worker}/maps").read_text(encoding="ascii")
    assert " rw-p " in maps
    assert " rw-s " not in maps  # memory that is shared


def test_a_message_is_known_by_its_id_however_its_headers_change():
    suspects = Suspects()
    assert not suspects
    first = Properties(message_id="one").with_headers({"x-delivery-count": 1})
    assert suspects.charge(first.encode()) == 1
    assert suspects.charge(first.with_headers({"x-delivery-count": 2}).encode()) == 2
    assert suspects.deaths(Properties(message_id="one").encode()) == 2
    assert suspects.deaths(Properties(message_id="two").encode()) == 0


def test_suspects_are_bounded():
    suspects = Suspects()
    for number in range(1000):
        suspects.charge(Properties(message_id=str(number)).encode())
    assert len(suspects._deaths) == 100
    assert suspects.deaths(Properties(message_id="999").encode()) == 1


@pytest.mark.parametrize("properties", [b"", b"\xff" * 100_000, Properties(message_id="x").encode()])
def test_what_is_handled_is_written_down_as_far_as_there_is_room(properties):
    handling = Handling()
    assert (handling.properties, handling.seconds) == (b"", 0)
    handling.begin(properties)
    assert handling.properties == properties[:4000]
    assert handling.seconds > 0
    handling.end()
    assert (handling.properties, handling.seconds) == (b"", 0)
    handling.close()
