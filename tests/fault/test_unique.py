"""Unique work while the broker is killed: keys stay taken, and are free once their workitems are over."""

import json

from support.waiting import wait_until

UNIQUE, STATUS = "x-taskqueue-unique", "x-taskqueue-status"
KEYS = 5


def submit(work, gate, workitem, key):
    work.foreign.publish(
        json.dumps({"gate": str(gate)}),
        type="gated",
        message_id=workitem,
        correlation_id=workitem,
        reply_to="answers",
        application_headers={UNIQUE: key},
    )


def answer(work):
    said = work.foreign.get("answers", 30)
    return said.correlation_id, said.headers[STATUS]


def test_keys_outlive_a_broker_that_is_killed(site, work, broker):
    dispatcher = site.dispatcher(f"[gated]\nworkers: {KEYS}")
    pool = site.pool()
    work.foreign.declare("answers")
    for key in range(KEYS):
        submit(work, site.gate(), f"first-{key}", f"key {key}")
    wait_until(lambda: len(site.notes()) == KEYS)
    work.wait_until_empty("taskqueue")  # else it may route, and they run, once more, rightly
    broker.kill_settled()
    broker.start()
    dispatcher.wait_for("takes work", 60, times=2)
    for key in range(KEYS):
        submit(work, site.gate(), f"second-{key}", f"key {key}")
    assert {answer(work) for _ in range(KEYS)} == {(f"second-{key}", "duplicate") for key in range(KEYS)}
    site.gate().touch()
    ends = {answer(work) for _ in range(2 * KEYS)}
    assert ends == {(f"{which}-{key}", "succeeded") for which in ("first", "second") for key in range(KEYS)}
    for key in range(KEYS):
        submit(work, site.gate(), f"third-{key}", f"key {key}")
    assert {answer(work) for _ in range(KEYS)} == {(f"third-{key}", "succeeded") for key in range(KEYS)}
    assert len([note for note in site.notes() if note.word == "begin"]) == 2 * KEYS
    assert pool.stop() == dispatcher.stop() == 0
    assert "Traceback" not in pool.output() + dispatcher.output()
