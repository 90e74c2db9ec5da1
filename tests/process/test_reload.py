"""SIGHUP: the configuration and the installed plugins are read again, and only what changed restarts."""

import json
import os
import re
import signal
from pathlib import Path

from support.processes import children, dispatchers, exists
from support.site import consumers, install, workers
from support.waiting import wait_until

from taskqueue.process import children as processes
from taskqueue.process.daemon import Signals


def reload(pool, line="reloaded"):
    times = pool.output().count(line)
    pool.signal(signal.SIGHUP)
    pool.wait_for(line, times=times + 1)


def test_only_the_groups_that_changed_restart(site, work):
    pool = site.pool("[good]\nworkers: 1\n[whoami]\nworkers: 1\ncolour: red")
    kept, old = work.ask("good")["pid"], work.ask("whoami")
    assert old["settings"]["colour"] == "red"
    before = consumers(pool)
    site.configure("[good]\nworkers: 1\n[whoami]\nworkers: 1\ncolour: blue")
    reload(pool)
    wait_until(lambda: not exists(old["pid"]))
    new = work.ask("whoami")
    assert new["settings"]["colour"] == "blue"
    assert work.ask("good")["pid"] == kept
    wait_until(lambda: len(consumers(pool)) == 2)
    assert len(consumers(pool) & before) == 1


def test_without_a_change_nobody_restarts(site, work):
    pool = site.pool("[good]\nworkers: 2\n[whoami]\nworkers: 1")
    before = children(pool.pid)
    reload(pool)
    work.ask("good")
    work.ask("whoami")
    assert sorted(children(pool.pid)) == sorted(before)


def test_groups_come_and_go(site, work):
    pool = site.pool("[good]\nworkers: 1")
    gone = work.ask("good")["pid"]
    site.configure("[whoami]\nworkers: 2")
    reload(pool)
    wait_until(lambda: not exists(gone))
    assert work.ask("whoami")["pid"] in workers(pool)
    wait_until(lambda: len(children(pool.pid)) == 3)


def test_a_running_workitem_of_a_changed_group_finishes(site, work):
    pool = site.pool("[gated]\nworkers: 1")
    first = work.submit("gated", {"gate": str(site.gate())})
    pid = site.wait_for_run(first).pid
    second = work.submit("gated", {"gate": str(site.gate())})
    site.configure("[gated]\nworkers: 1\ncolour: blue")
    reload(pool)
    other = site.wait_for_run(second).pid  # by the new group, beside the old one
    assert exists(pid)
    site.gate().touch()
    results = work.results(2)
    assert [results[first].value["pid"], results[second].value["pid"]] == [pid, other]
    assert len(site.notes()) == 4


def test_a_worker_of_a_changed_group_that_hangs_in_setup_is_killed(site):
    pool = site.pool("[stuck]\nworkers: 1", stop_timeout=0.5)
    pool.wait_for("stuck [group=stuck")
    (old,) = workers(pool)
    site.configure("[stuck]\nworkers: 1\ncolour: blue", stop_timeout=0.5)
    reload(pool)
    wait_until(lambda: not exists(old), 20)
    wait_until(lambda: len(workers(pool)) == len(consumers(pool)) == 1)


def test_a_faulty_configuration_changes_nothing(site, work):
    pool = site.pool("[good]\nworkers: 1")
    before = children(pool.pid)
    site.configure("[good]\nworkers: three hundred")
    reload(pool, "not reloaded, the configuration has faults")
    pool.wait_for("section [good], option workers: expected a number of 0 or more")
    work.ask("good")
    assert sorted(children(pool.pid)) == sorted(before)


def test_a_plugin_that_was_installed_meanwhile_is_found(site, work):
    pool = site.pool("[good]\nworkers: 1\n[newcomer]\nworkers: 1", ready="no plugin 'newcomer' is installed")
    waiting = work.submit("newcomer", "for it")
    (site.plugins / "newcomer.py").write_text("from zoo import Good\n\n\nclass Newcomer(Good):\n    pass\n")
    (site.plugins / "newcomer.py").chmod(0o644)
    install(site.plugins, "newcomer", {"newcomer": "newcomer:Newcomer.factory"})
    reload(pool)
    assert work.result().workitem == waiting


def test_a_dispatcher_is_replaced_without_losing_or_doubling_a_workitem(site, work):
    dispatcher = site.dispatcher("[good]\nworkers: 1")
    (old,) = dispatchers(dispatcher.pid)
    work.foreign.declare("worker_good")
    work.submit_numbers(range(1000))
    wait_until(lambda: work.foreign.depth("worker_good"))
    dispatcher.signal(signal.SIGHUP)  # in the middle of it
    work.submit_numbers(range(1000, 1200))
    dispatcher.wait_for("reloaded")
    wait_until(lambda: not exists(old))
    work.submit_numbers(range(1200, 1300))
    work.wait_until_empty("taskqueue")
    came = [json.loads(message.body)["number"] for message in work.foreign.collect("worker_good", 1300)]
    assert sorted(came) == list(range(1300))
    assert work.foreign.poll("worker_good") is None
    wait_until(lambda: len(dispatchers(dispatcher.pid)) == 1)
    assert "ended:" not in dispatcher.output()


def test_many_reloads_in_a_row_leave_one_of_each(site, work):
    pool = site.pool("[good]\nworkers: 1")
    for number in range(10):
        site.configure(f"[good]\nworkers: 1\ncolour: {number}")
        pool.signal(signal.SIGHUP)
    site.configure("[good]\nworkers: 1\ncolour: last")
    reload(pool)
    wait_until(lambda: len(workers(pool)) == len(consumers(pool)) == 1, 20)
    work.ask("good")
    assert "ended:" not in pool.output()


def test_a_signal_that_comes_before_a_process_can_note_it_is_kept():
    reader, writer = os.pipe()

    def run():
        os.read(reader, 1)  # until the signal has been sent
        with Signals((signal.SIGHUP,)) as signals:
            return 7 if signals.wait(10) == [signal.SIGHUP] else 1

    pid = processes.fork(run)
    os.kill(pid, signal.SIGHUP)
    os.write(writer, b"!")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    os.close(reader)
    os.close(writer)


def test_a_consumer_that_dies_while_the_address_has_very_many_faults_is_waited_for(site, work):
    pool = site.pool("[good]\nworkers: 1")
    (consumer,) = consumers(pool)
    wrong = "".join(f"wrong\u20ac{number}: \u20ac many\n" for number in range(120))
    site.configure("[good]\nworkers: 1", amqp=wrong)
    os.kill(consumer, signal.SIGKILL)
    pool.wait_for("ended: the configuration cannot be read")
    site.configure("[good]\nworkers: 1")
    assert work.ask("good", "again")["echo"] == "again"
    assert pool.stop() == 0


def test_a_consumer_that_dies_while_the_configuration_has_faults_elsewhere_is_followed_at_once(site, work):
    pool = site.pool("[good]\nworkers: 1")
    (consumer,) = consumers(pool)
    site.configure("[good]\nworkers: 1\n[better]\nworkers: many\n")
    os.kill(consumer, signal.SIGKILL)
    assert work.ask("good", "again")["echo"] == "again"
    assert "cannot be read" not in pool.output()
    assert pool.stop() == 0


def has_taken_all_signals(pid):
    status = Path(f"/proc/{pid}/status").read_text()
    return re.search(r"^ShdPnd:\t0+$", status, re.MULTILINE)


def test_hundreds_of_wishes_for_a_reload_are_served_at_once(site, work):
    pool = site.pool("[good]\nworkers: 1")
    text, held = site.config.read_text(), site.config.with_name("held")
    os.mkfifo(held)
    held.rename(site.config)
    pool.signal(signal.SIGHUP)  # its reload reads the pipe until the end of what is written below
    with site.config.open("w") as pipe:
        for _ in range(300):
            pool.signal(signal.SIGHUP)
            wait_until(lambda: has_taken_all_signals(pool.pid))
        held.write_text(text)
        held.rename(site.config)
        pipe.write(text)
    pool.wait_for("reloaded")
    pool.signal(signal.SIGTERM)
    assert pool.wait() == 0
    assert pool.output().count("reloaded") <= 2  # one for those of the meantime
