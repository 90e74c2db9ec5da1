"""A client and its thread: signals, callbacks, other threads and losses while a thread waits for a call."""

import contextlib
import gc
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from support.waiting import wait_until

from taskqueue import BrokerUnavailable, CallTimeout, Client

WHILE_IT_WAITS = 0.5  # seconds


@pytest.fixture
def gate(tmp_path):
    """A file that a call of `wait` waits for."""
    gate = tmp_path / "gate"
    yield gate
    gate.touch()


@pytest.fixture
def alarm():
    """Have something done by the handler of a signal, in so many seconds."""

    def arm(seconds, do):
        signal.signal(signal.SIGALRM, lambda *_: do())
        signal.setitimer(signal.ITIMER_REAL, seconds)

    yield arm
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)


@contextlib.contextmanager
def soon():
    """Fail where something waits for the 5 s after which every loop wakes."""
    begun = time.monotonic()
    yield
    assert time.monotonic() - begun < 4


def interrupt():
    raise KeyboardInterrupt


def test_a_waiting_call_is_interrupted_and_the_client_goes_on(client, alarm, gate):
    assert client.add(1, 2) == 3
    engine = client._line
    alarm(WHILE_IT_WAITS, interrupt)
    with pytest.raises(KeyboardInterrupt):
        client.wait(str(gate))
    assert client.add(5, 6) == 11
    assert client._line is engine
    wait_until(lambda: not engine._calls)  # nobody waits for the reply any more


INTERRUPTED = """
import random, signal, sys, threading
from taskqueue import Client

def leave():
    if is_armed:
        raise KeyboardInterrupt

def call():
    assert client.add(1, 2) == 3

client, moments, number, is_armed = Client(sys.argv[1]), random.Random(1), 0, False
handle, seen = {"leave": leave, "call": call}[sys.argv[2]], []
signal.signal(signal.SIGALRM, lambda *_: (seen.append(1), handle()))
for _ in range(200):
    assert client.add(1, 1) == 2  # Python's own start of a thread does not survive everything
    try:
        is_armed = True
        signal.setitimer(signal.ITIMER_REAL, moments.uniform(0.0001, 0.003))
        for number in range(10):
            assert client.add(number, 1) == number + 1
    except KeyboardInterrupt:
        pass
    is_armed = False
assert len(seen) > 150, seen
assert client.call("add", 5, 6, timeout=20) == 11
client.close()
for thread in threading.enumerate():
    if thread is not threading.current_thread():
        thread.join(10)
assert threading.active_count() == 1, threading.enumerate()
print("usable, and alone")
"""


@pytest.mark.parametrize("what", ["leave", "call"])
def test_a_signals_handler_may_leave_or_call_at_any_moment(served, what):
    command = [sys.executable, "-c", INTERRUPTED, served.url, what]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (0, "usable, and alone\n"), done.stderr


def test_a_signals_handler_maps(client, alarm, gate):
    assert client.add(1, 2) == 3
    found = []

    def handle():
        found.extend(client.map("add", [(1, 2), (3, 4)]))
        gate.touch()

    alarm(WHILE_IT_WAITS, handle)
    assert isinstance(client.wait(str(gate)), int)
    assert found == [3, 7]


def test_a_callback_that_would_wait_for_its_own_client_hears_that_it_cannot(async_client, gate):
    found = []

    def wait(_call):
        with pytest.raises(RuntimeError, match="cannot wait for that client") as raised:
            async_client.add(3, 4).result()
        found.append(raised.value)

    async_client.wait(str(gate)).add_done_callback(wait)
    gate.touch()
    wait_until(lambda: found)
    assert async_client.add(5, 6).result(10) == 11


def test_a_signals_handler_calls_while_the_client_connects(client):
    make, found, made = client._make, [], []

    def interrupted():
        client._make = make
        engine = make()
        made.append(engine)
        found.append(client.add(1, 1))  # as the handler of a signal that comes here would
        return engine

    client._make = interrupted
    assert client.add(5, 6) == 11
    assert found == [2]
    assert client._line is not made[0]
    wait_until(lambda: not made[0]._thread.is_alive())


def test_a_client_that_is_closed_again_and_again_leaves_nothing_behind(served):
    def files():
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 -- names are enough

    client = Client(served.url)
    numbers = []
    for _ in range(4):
        assert client.add(1, 2) == 3
        client.close()
        gc.collect()
        numbers.append(files())
    assert numbers[-1] <= numbers[0]


def test_a_signals_handler_calls_while_a_call_waits(client, alarm, gate):
    assert client.add(1, 2) == 3
    found = []

    def handle():
        found.append(client.add(1, 1))
        gate.touch()

    alarm(WHILE_IT_WAITS, handle)
    assert isinstance(client.wait(str(gate)), int)
    assert found == [2]
    assert client.add(5, 6) == 11


def test_a_signals_handler_closes_the_client_that_waits(client, alarm, gate):
    assert client.add(1, 2) == 3
    engine = client._line
    alarm(WHILE_IT_WAITS, client.close)
    with soon(), pytest.raises(BrokerUnavailable, match="closed before the reply"):
        client.wait(str(gate))
    wait_until(lambda: not engine._thread.is_alive())


def test_other_threads_call_and_close_while_one_waits(client, gate):
    assert client.add(1, 2) == 3
    engine = client._line
    failed = []

    def wait():
        with pytest.raises(BrokerUnavailable, match="closed before the reply") as raised:
            client.wait(str(gate))
        failed.append(raised.value)

    waiting = threading.Thread(target=wait)
    waiting.start()
    wait_until(lambda: engine._calls)
    assert [client.add(number, 1) for number in range(20)] == list(range(1, 21))
    client.close()
    waiting.join(10)
    assert len(failed) == 1


def test_a_timeout_ends_a_wait(client, gate):
    assert client.add(1, 2) == 3
    engine = client._line
    with soon(), pytest.raises(CallTimeout, match=r"no result of wait within 0\.5 s"):
        client.call("wait", str(gate), timeout=WHILE_IT_WAITS)
    wait_until(lambda: not engine._calls)
    assert client.add(5, 6) == 11
