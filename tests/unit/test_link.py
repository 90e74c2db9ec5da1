"""Workitems that a worker has not begun are taken back from it, and its messages are bounded."""

import mmap
import os
import signal
import socket
from dataclasses import replace

import pytest
from support.waiting import wait_until

from taskqueue.amqp.properties import Properties
from taskqueue.broker.loop import EventLoop
from taskqueue.broker.subscription import Delivery
from taskqueue.config import GroupSettings
from taskqueue.consumer import control
from taskqueue.consumer.control import Reports
from taskqueue.consumer.in_flight import InFlightTable
from taskqueue.consumer.link import WorkerLink
from taskqueue.process.logs import Log
from taskqueue.worker.frames import Outcome, ProgressFrame, Verdict, ready, retiring

TIMEOUT, LONG_TIMEOUT = 0.05, 0.5  # seconds
MEBIBYTE = 1024 * 1024
GOOD = replace(GroupSettings("good", "good"), timeout=TIMEOUT, timeout_grace=0)


class Given:
    """A consumer's link to a worker that has been given three workitems and does nothing by itself."""

    def __init__(self, timeout=TIMEOUT):
        self.group = replace(GOOD, timeout=timeout)
        self.loop, self.begun, self.said = EventLoop(), [], []
        self.ends = control.pair()
        self.has_ended = False
        ledger = InFlightTable(lambda _assignment: True)
        self.items = [self.assignment(ledger, number) for number in (1, 2, 3)]
        link, self.line = socket.socketpair()
        giving, using = socket.socketpair()
        self.credits = using.dup()
        output, self.output = os.pipe()
        self.link = WorkerLink(
            self.loop,
            1,
            "good/1",
            (link.detach(), output, giving.detach(), using.detach()),
            reports=Reports(self.loop, self.ends[0]),
            log=Log("test"),
            group=self.group,
            listener=self,
        )
        for each in self.items:
            assert self.link.give(each)

    def worker_began(self, _link, assignment):
        self.begun.append(assignment)

    def worker_ready(self, services):
        pass

    def worker_progressed(self, assignment, progress):
        pass

    def worker_performed(self, link, assignment, outcome):
        pass

    def reported(self, word):
        """Return how often the supervisor was told something."""
        while message := control.receive(self.ends[1]):
            self.said.append(message.word)
        return self.said.count(word)

    @property
    def faults(self):
        """Why the worker must be killed, for each time that the supervisor was told so."""
        return [self.link.kill_reason] * self.reported("kill")

    def assignment(self, ledger, number):
        raw = Properties(message_id=f"{number}").encode()
        return ledger.enter(self.group, Delivery(number, 0, False, raw, b""), Properties.decode(raw))

    def run(self, seconds):
        self.loop.call_later(seconds, self.loop.stop)
        self.loop.run()

    def end(self):
        """Let go of the worker as if it were dead."""
        self.link.close()
        self.has_ended = True

    def close(self):
        if not self.has_ended:
            self.end()
        self.loop.close()
        for end in (self.line, self.credits, *self.ends):
            end.close()
        os.close(self.output)


@pytest.fixture
def given():
    given = Given()
    yield given
    given.close()


@pytest.fixture
def lenient():
    """The same, where a busy machine comes to the next line before the timeout."""
    given = Given(timeout=LONG_TIMEOUT)
    yield given
    given.close()


@pytest.fixture
def patient():
    """The same, where no workitem runs into its timeout."""
    given = Given(timeout=0)
    yield given
    given.close()


def test_what_waits_behind_the_one_that_is_begun_is_taken_back(given):
    given.run(0)  # two are sent at the round's end
    assert given.credits.recv(8) == bytes(7) + b"\1"
    assert given.link.take_back() == given.items[1:]
    assert list(given.link.tasks) == given.items[:1]
    given.run(2 * TIMEOUT)
    assert len(given.faults) == 1


def test_what_was_not_sent_yet_is_taken_back_and_never_begun(given):
    given.credits.recv(8)
    assert given.link.take_back() == given.items[1:]
    given.run(0)
    given.credits.setblocking(False)
    with pytest.raises(BlockingIOError):
        given.credits.recv(8)


def test_the_first_is_taken_back_with_its_time_limit_where_the_worker_has_not_begun_it(lenient):
    lenient.run(0)
    assert lenient.link.take_back() == lenient.items
    assert not lenient.link.tasks
    lenient.run(2 * LONG_TIMEOUT)
    assert lenient.faults == []
    assert lenient.link.give(lenient.items[1])
    assert lenient.begun == [lenient.items[0], lenient.items[1]]


def test_a_dead_worker_that_had_begun_nothing_is_known_for_that(given):
    given.end()
    assert not given.link.had_begun


def test_of_a_dead_worker_that_had_begun_it_is_known(given):
    given.credits.recv(8)
    given.end()
    assert given.link.had_begun


def test_a_worker_that_takes_a_part_of_a_permit_is_killed_and_what_it_performs_is_charged(patient):
    patient.run(0)  # the other two are sent at the end of the round
    assert len(patient.credits.recv(8 + 3)) == 11  # the first one's, and three bytes of the second
    assert patient.link.take_back() == []
    assert patient.faults == ["it read a part of a credit"]
    assert not patient.link.is_ready
    patient.end()
    assert patient.link.had_begun
    assert patient.link.kill_reason == "it read a part of a credit"


def test_a_worker_that_retires_before_it_has_performed_anything_is_at_fault(patient):
    patient.line.send(retiring())
    patient.run(0.01)
    assert patient.faults == ["unexpected frame RETIRING"]


def test_a_dead_worker_has_ended_while_what_it_left_behind_speaks_on(patient):
    chatter, counts = ProgressFrame(1, 0.5, "still here").encode() * 1000, mmap.mmap(-1, mmap.PAGESIZE)
    speakers = [speak(patient.line, chatter, counts, number) for number in range(4)]
    try:
        wait_until(lambda: any(counts[:4]))
        patient.end()
        assert sum(counts[:4]) * len(chatter) < 2 * MEBIBYTE
    finally:
        for pid in speakers:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def speak(line, words, counts, number):
    """Have a process write to a worker's end of the line, 255 times at most, and count; return its pid."""
    pid = os.fork()
    if pid == 0:
        for count in range(1, 256):
            line.sendall(words)
            counts[number] = count
        os._exit(0)
    return pid


ANSWER = Outcome(1, Verdict.SUCCEEDED, 0.0, 0.0, -1.0, "", "", b"").encode()


@pytest.mark.parametrize("words", [ANSWER + 2 * retiring(), ANSWER + retiring() + ready()])
def test_a_worker_retires_once_and_is_not_ready_again(patient, words):
    patient.line.sendall(ready() + words)
    patient.run(0.01)
    assert patient.reported("retires") == 1
    assert len(patient.faults) == 1
    assert "unexpected frame" in patient.faults[0]
