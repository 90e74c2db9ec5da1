"""A message that kills or blocks each consumer that handles it is counted, and put aside."""

import os
import signal
from pathlib import Path

import pytest
from support.site import consumers, workers
from support.waiting import wait_until

from taskqueue.amqp.properties import Properties
from taskqueue.consumer.suspects import HandledMessage, Handling, Suspects, Times, Watchdog

#: Puts bugs into a consumer that some bodies trigger, and shortens a supervisor's patience; Python imports a
#: module of that name by itself.
BUGS = """
import os, resource, signal
from taskqueue.consumer import suspects

suspects.LONGEST_HANDLING, suspects.LONGEST_SILENCE, suspects.BEAT_DELAY = 3.0, 5.0, 0.5  # seconds

from taskqueue.consumer.admission import Admission
from taskqueue.consumer.link import WorkerLink
from taskqueue.consumer.settlement import Settlement

def infect(cls, name, bug):
    method = getattr(cls, name)

    def infected(self, assignment, *arguments):
        bug(assignment.body)
        return method(self, assignment, *arguments)

    setattr(cls, name, infected)

def at_its_delivery(body):
    if b"deadly" in body:
        os.kill(os.getpid(), signal.SIGKILL)
    while b"blocking" in body:
        pass

def when_it_is_given(body):
    if b"too large" in body:
        resource.setrlimit(resource.RLIMIT_AS, (1, resource.RLIM_INFINITY))
        bytearray(2**30)

def at_its_outcome(body):
    if b"late" in body:
        os.kill(os.getpid(), signal.SIGKILL)

infect(Admission, "admits", at_its_delivery)
infect(WorkerLink, "give", when_it_is_given)
infect(Settlement, "fail_with", at_its_outcome)
"""


@pytest.fixture
def start(site):
    """Start a pool whose consumers have bugs."""
    directory = site.directory / "bugs"
    directory.mkdir()
    (directory / "sitecustomize.py").write_text(BUGS)
    for path, mode in ((directory, 0o755), (directory / "sitecustomize.py", 0o644)):
        path.chmod(mode)

    def start(sections):
        site.configure(sections)
        path = f"{directory}:{site.plugins}"
        return site.start("workerpool", "-f", "-c", str(site.config), PYTHONPATH=path)

    return start


def publish(work, **bodies):
    work.foreign.declare("worker_good")
    for id_, body in bodies.items():
        work.foreign.publish(body, "worker_good", message_id=id_)


def test_a_message_that_kills_its_consumer_is_put_aside_and_its_neighbours_are_done(site, work, start):
    bodies = {f"harmless{number}": "1" for number in range(5)}
    publish(work, **bodies, one='"deadly"', last="1")
    pool = start("[good]\nworkers: 1\nmax_crashes: 2")
    results = {}
    while len(results) < len(bodies) + 2:  # a killed consumer may leave one that comes twice
        result = work.result()
        results[result.workitem] = result
    assert results.pop("one").error == (
        "ConsumerCrashed: 2 consumers died, or were killed, while they handled it"
    )
    assert {result.status for result in results.values()} == {"succeeded"}
    wait_until(lambda: work.foreign.depth("taskqueue_failed") == 1)
    kept = work.foreign.get("taskqueue_failed")
    assert (kept.properties["message_id"], kept.body) == ("one", '"deadly"')
    assert pool.output().count("the consumer ended while it handled a message") == 2
    assert pool.stop() == 0


def test_a_message_that_blocks_its_consumer_is_put_aside(work, start):
    publish(work, one='"blocking"', two="1")
    pool = start("[good]\nworkers: 1\nmax_crashes: 1")
    results = work.results(2, 60)
    assert "1 consumers died, or were killed" in results["one"].error
    assert results["two"].status == "succeeded"
    pool.wait_for("the consumer has been handling one message for 3 s; killing it")
    assert pool.stop() == 0


def test_a_message_that_there_is_no_memory_for_is_put_aside(work, start):
    publish(work, one='"too large' + "." * 2_000_000 + '"')
    pool = start("[good]\nworkers: 1\nmax_crashes: 2")
    assert work.result(30).error.startswith("ConsumerCrashed: 2 consumers died")
    assert work.ask("good", 1)["echo"] == 1
    assert "MemoryError" in pool.output()
    assert pool.stop() == 0


def test_a_message_whose_outcome_kills_its_consumer_is_put_aside(work, start):
    work.foreign.declare("worker_raising")
    work.foreign.publish('{"error": "ValueError", "when": "late"}', "worker_raising", message_id="one")
    pool = start("[raising]\nworkers: 1\nmax_crashes: 2")
    assert work.result(30).error.startswith("ConsumerCrashed: 2 consumers died")
    assert pool.stop() == 0


def test_what_was_put_aside_is_tried_anew_when_it_is_sent_back(site, work, start):
    publish(work, one='"deadly"')
    pool = start("[good]\nworkers: 1\nmax_crashes: 2")
    for times in (2, 4):
        assert work.result(30).error.startswith("ConsumerCrashed: 2 consumers died")
        assert pool.output().count("the consumer ended while it handled a message") == times
        wait_until(lambda: work.foreign.depth("taskqueue_failed") == 1)
        assert site.run("failed", "retry", "--all", "-c", str(site.config)).returncode == 0
    assert work.result(30).error.startswith("ConsumerCrashed: 2 consumers died")
    assert pool.stop() == 0


def test_of_messages_without_ids_only_the_deadly_one_is_put_aside(work, start):
    work.foreign.declare("worker_good")
    for body in ("1", '"deadly"', "2"):
        work.foreign.publish(body, "worker_good")
    pool = start("[good]\nworkers: 1\nmax_crashes: 1")
    results = [work.result(30) for _ in range(3)]
    assert sorted(result.status for result in results) == ["failed", "succeeded", "succeeded"]
    assert work.foreign.get("taskqueue_failed").body == '"deadly"'
    assert pool.stop() == 0


def test_a_consumer_that_gives_no_sign_of_life_is_replaced_and_nothing_is_charged(work, start):
    pool = start("[good]\nworkers: 1\nmax_crashes: 1")
    assert work.ask("good", 1)["echo"] == 1
    work.wait_until_empty("worker_good")  # what is not acknowledged comes once more
    (consumer,) = consumers(pool)
    os.kill(consumer, signal.SIGSTOP)
    pool.wait_for("no heartbeat from the consumer for 5 s; killing it")
    assert work.ask("good", 2)["echo"] == 2
    assert "handled a message" not in pool.output()
    assert pool.stop() == 0


def test_a_worker_has_nothing_of_what_a_supervisor_reads_of_any_consumer(site):
    pool = site.pool("[good]\nworkers: 1\n[better]\nworkers: 1")
    assert len(workers(pool)) == 2
    for worker in workers(pool):
        maps = Path(f"/proc/{worker}/maps").read_text(encoding="ascii")
        assert " rw-p " in maps
        assert " rw-s " not in maps  # memory that is shared
        files = [str(each.readlink()) for each in Path(f"/proc/{worker}/fd").iterdir()]
        assert not [each for each in files if "handling" in each]
    assert pool.stop() == 0


# --- the parts ---


def message(body=b"1", headers=None, **properties):
    return Properties(**properties).with_headers(headers or {}).encode(), body


def charge(suspects, properties, body):
    return suspects.charge(HandledMessage.of(properties, body))


def test_a_message_is_known_by_its_id_however_its_headers_change():
    suspects = Suspects()
    assert charge(suspects, *message(message_id="one", headers={"x-delivery-count": 1})) == 1
    assert charge(suspects, *message(message_id="one", headers={"x-delivery-count": 2})) == 2
    assert suspects.deaths(*message(message_id="one")) == 2
    assert suspects.deaths(*message(message_id="two")) == 0


def test_a_message_without_an_id_is_known_by_its_other_properties_and_how_its_body_begins():
    suspects = Suspects()
    charge(suspects, *message(type="good", headers={"x-delivery-count": 1}))
    charge(suspects, b"\xff", b"")
    assert suspects.deaths(*message(type="good", user_id="guest", headers={"x-delivery-count": 2})) == 1
    assert suspects.deaths(b"\xff", b"") == 1
    others = message(b"2", type="good"), message(b"10", type="good"), message(), (b"\xfe", b"")
    assert [suspects.deaths(*other) for other in others] == [0] * 4


def test_a_message_is_no_suspect_any_more_once_its_end_is_confirmed():
    suspects, here = Suspects(), Suspects()  # the supervisor's and the consumer's
    for each in (suspects, here):
        charge(each, *message(message_id="one"))
    assert here.clear(*message(message_id="two")) == ""
    assert suspects.forget(here.clear(*message(message_id="one")))
    assert not suspects.forget("one")
    assert (len(suspects), len(here)) == (0, 0)
    assert here.clear(*message(message_id="one")) == ""


def test_suspects_are_bounded():
    suspects = Suspects()
    for number in range(1000):
        charge(suspects, *message(message_id=str(number)))
    assert len(suspects) == 100
    assert suspects.deaths(*message(message_id="999")) == 1


@pytest.fixture
def handling():
    handling = Handling()
    yield handling
    handling.close()


@pytest.mark.parametrize("properties", [b"", b"\xff" * 200_000, Properties(message_id="x").encode()])
@pytest.mark.parametrize("body", [b"", b"1", b"x" * 100_000])
def test_what_is_handled_is_written_down_as_far_as_there_is_room(handling, properties, body):
    writer = handling.writer()
    assert handling.message() is None
    writer.begin(b"before", b"before")
    writer.begin(properties, body)
    times = handling.times()
    assert handling.message() == (properties[:131_072], len(body), body[:64])
    assert times.began > 0
    writer.end()
    assert handling.message() is None
    assert handling.times().beat == times.beat
    writer.beat()
    assert handling.times().beat > times.beat
    assert handling.message() is None


def test_what_a_consumer_wrote_that_cut_its_file_short_is_nothing(handling):
    handling.writer().begin(b"properties", b"body")
    os.ftruncate(handling.fileno(), 5)
    assert (handling.times(), handling.message()) == (Times(0.0, 0.0), None)


def looks(watchdog, *written):
    """Look every ten seconds; return what was said each time."""
    return [watchdog.check(times, 10.0 * number) for number, times in enumerate(written, 1)]


def test_a_consumer_that_handles_one_message_for_too_long_hangs():
    said = looks(Watchdog(0.0), *[Times(5.0, 1.0)] * 5)
    assert said == [""] * 4 + ["the consumer has been handling one message for 30 s"]


def test_a_consumer_that_handles_one_message_after_the_other_does_not_hang():
    said = looks(Watchdog(0.0), *[Times(began, began) for began in range(1, 100)])
    assert set(said) == {""}


def test_a_consumer_that_gives_no_sign_of_life_hangs():
    said = looks(Watchdog(0.0), *[Times(0.0, 1.0)] * 32)
    assert said == [""] * 31 + ["no heartbeat from the consumer for 300 s"]


def test_a_host_that_was_frozen_for_long_goes_on_with_its_consumers():
    watchdog = Watchdog(0.0)
    assert watchdog.check(Times(5.0, 1.0), 10.0) == ""
    for now in (3600.0, 7200.0, 10800.0):
        assert watchdog.check(Times(5.0, 1.0), now) == ""
    assert watchdog.check(Times(0.0, 10801.0), 10801.0) == ""
