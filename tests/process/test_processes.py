"""Real forks and real signals."""

import itertools
import logging
import os
import signal
import socket
import sys
import time

import pytest
from support.processes import exists
from support.waiting import wait_until

from taskqueue.errors import ExitStatus
from taskqueue.process import children
from taskqueue.process.children import Exit, Slot
from taskqueue.process.daemon import Signals


def end_of(pid):
    """Wait for a child of ours, and for nobody else's."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def sleep():
    signal.alarm(20)  # in no case longer than the tests
    children.let_signals_in()
    while True:
        signal.pause()


@pytest.mark.parametrize("status", [0, 1, 65, 255])
def test_a_child_exits_with_what_it_returns(status):
    assert end_of(children.fork(lambda: status)) == status


def test_a_child_that_exits_by_itself_keeps_its_status():
    assert end_of(children.fork(lambda: sys.exit(3))) == 3
    assert end_of(children.fork(lambda: sys.exit("words"))) == ExitStatus.SOFTWARE


def test_a_child_that_raises_logs_a_traceback_and_has_a_status_of_its_own(forked):
    def raise_it():
        raise ValueError("a bug of ours")

    def run():
        logging.basicConfig(stream=sys.stderr, force=True)
        return end_of(children.fork(raise_it))

    child = forked(run)
    assert child.wait() == ExitStatus.SOFTWARE
    assert "Traceback (most recent call last):" in child.output()
    assert child.output().endswith("ValueError: a bug of ours\n")


def test_what_is_buffered_before_a_fork_is_printed_once(forked):
    def run():
        print("before")
        return end_of(children.fork(lambda: 0))

    child = forked(run)
    assert child.wait() == 0
    assert child.output() == "before\n"


def test_a_child_leads_a_session_of_its_own():
    pid = children.fork(sleep)
    try:
        wait_until(lambda: os.getsid(pid) == os.getpgid(pid) == pid)
    finally:
        children.kill_group(pid)
        assert end_of(pid) == -signal.SIGKILL


def test_a_child_has_none_of_its_parents_signal_handlers(forked):
    def show():
        numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
        print([signal.getsignal(number).name for number in numbers], signal.set_wakeup_fd(-1))
        children.let_signals_in()
        print(signal.pthread_sigmask(signal.SIG_BLOCK, ()), signal.getsignal(signal.SIGUSR1).name)
        return 0

    def run():
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        with Signals((signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD)):
            return end_of(children.fork(show))

    child = forked(run)
    assert child.wait() == 0
    assert child.output() == "['SIG_DFL', 'SIG_DFL', 'SIG_DFL', 'SIG_DFL'] -1\nset() SIG_IGN\n"


def test_a_signal_that_comes_right_after_the_fork_ends_the_child_and_is_not_noted_by_the_parent():
    with Signals((signal.SIGTERM,)) as signals:
        for _ in range(8):
            pid = children.fork(sleep)
            children.send(pid, signal.SIGTERM)
            wait_until(lambda: not exists(pid))  # noqa: B023 -- called before the next round
            assert end_of(pid) == -signal.SIGTERM
        assert signals.pending() == []


def test_a_signal_that_comes_before_the_child_can_note_it_is_kept_back_until_then():
    ours, theirs = socket.socketpair()

    def run():
        theirs.recv(1)  # the signal has been sent
        with Signals((signal.SIGTERM,)) as signals:
            return 7 if signals.wait(10) == [signal.SIGTERM] else 1

    pid = children.fork(run)
    children.send(pid, signal.SIGTERM)
    ours.send(b"x")
    assert end_of(pid) == 7
    ours.close()
    theirs.close()


def test_a_group_is_killed_with_what_its_leader_started():
    ours, theirs = socket.socketpair()

    def run():
        child = os.fork()
        if child:
            theirs.send(str(child).encode())
        sleep()
        return 0

    pid = children.fork(run)
    grandchild = int(ours.recv(20))
    assert exists(grandchild)
    children.kill_group(pid)
    end_of(pid)
    wait_until(lambda: not exists(grandchild))
    children.kill_group(pid)  # who is gone is no error
    children.send(pid, signal.SIGTERM)
    children.send(pid, signal.SIGHUP)
    ours.close()
    theirs.close()


def test_a_child_dies_with_its_parent_even_if_that_is_killed(forked):
    ours, theirs = socket.socketpair()

    def run():
        me = os.getpid()

        def be():
            children.die_with_parent(me)
            theirs.send(str(os.getpid()).encode())
            sleep()
            return 0

        children.fork(be)
        sleep()

    parent = forked(run)
    child = int(ours.recv(20))
    assert exists(child)
    parent.signal(signal.SIGKILL)
    wait_until(lambda: not exists(child))
    ours.close()
    theirs.close()


def test_a_child_whose_parent_is_gone_already_ends_at_once(forked):
    def run():
        children.die_with_parent(os.getppid() + 1)
        return 9

    assert forked(run).wait() == ExitStatus.OK


def test_all_files_but_the_named_ones_are_closed(forked):
    def run():
        kept = [os.open("/dev/null", os.O_RDONLY) for _ in range(6)][1::2]
        children.close_all_but(*reversed(kept))
        left = [fd for fd in range(3, 200) if is_open(fd)]
        print(left == kept)

    def is_open(descriptor):
        try:
            os.fstat(descriptor)
        except OSError:
            return False
        return True

    child = forked(run)
    assert child.wait() == 0
    assert child.output() == "True\n"


def test_every_child_that_ended_is_reaped_with_its_cause(forked):
    def run():
        assert children.reap() == []
        pids = [
            children.fork(lambda: 3),
            children.fork(lambda: os.kill(os.getpid(), signal.SIGSEGV)),
            children.fork(sleep),
        ]
        ends = []
        wait_until(lambda: ends.extend(children.reap()) or len(ends) == 2)
        assert children.reap() == []  # the third one still runs
        assert {end.pid: end.cause for end in ends} == {
            pids[0]: "exit status 3",
            pids[1]: "killed by SIGSEGV",
        }
        assert all(1_000_000 < end.peak_memory < 10**10 for end in ends)
        children.kill_group(pids[2])
        wait_until(lambda: ends.extend(children.reap()) or len(ends) == 3)
        assert ends[2].cause == "killed by SIGKILL"

    child = forked(run)
    assert child.wait() == 0, child.output()


def test_a_signal_without_a_name_is_told_by_its_number():
    assert Exit(1, -50, 0).cause == "killed by signal 50"


# --- slots ---


def test_an_empty_slot_is_due_at_once():
    slot = Slot("a")
    assert slot.is_due
    slot.fill(7)
    assert not slot.is_due


def test_the_first_follower_comes_at_once_and_those_after_it_ever_later():
    slot, delays = Slot("a"), []
    for pid in range(1, 15):
        slot.fill(pid)
        delays.append(slot.vacate(expected=False))
    assert delays[0] == 0
    assert delays[1] <= 1
    assert delays == sorted(delays)
    assert all(later <= earlier * 2 for earlier, later in itertools.pairwise(delays[1:]))
    assert delays[-1] == delays[-2] == 60
    assert not slot.is_due
    assert 59 < slot.due - time.monotonic() <= 60


def test_a_process_that_lived_long_is_followed_at_once():
    slot = Slot("a")
    for pid in range(1, 5):
        slot.fill(pid)
        slot.vacate(expected=False)
    slot.fill(9)
    slot.started -= 10
    assert slot.vacate(expected=False) == 0
    assert slot.is_due


def test_a_process_that_was_asked_to_end_is_followed_at_once():
    slot = Slot("a")
    for pid in range(1, 5):
        slot.fill(pid)
        slot.vacate(expected=False)
    slot.fill(9)
    assert slot.vacate(expected=True) == 0
    slot.fill(10)
    assert slot.vacate(expected=False) == 0


def test_a_slot_stays_usable_after_any_number_of_deaths():
    slot = Slot("a", deaths=100_000)
    slot.fill(1)
    assert slot.vacate(expected=False) == 60


def test_what_a_child_left_in_its_group_is_killed_before_the_kernel_may_give_its_id_to_others(forked):
    def run():
        reader, writer = os.pipe()

        def leave_somebody():
            left = os.fork()
            if left == 0:
                signal.alarm(60)  # in no case longer than the test
                sleep()
            os.write(writer, f"{left}\n".encode())
            return 0

        children.fork(leave_somebody)
        left = int(os.read(reader, 100))
        wait_until(children.reap)
        wait_until(lambda: not exists(left))

    child = forked(run)
    assert child.wait() == 0, child.output()
