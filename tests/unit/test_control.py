import os
import socket

import pytest

from taskqueue.broker.loop import EventLoop
from taskqueue.consumer import control
from taskqueue.consumer.control import Reports


@pytest.fixture
def ends():
    ours, theirs = control.pair()
    with ours, theirs:
        yield ours, theirs


def test_a_message_comes_as_it_was_sent(ends):
    ours, theirs = ends
    assert control.send(ours, "died", pid=7, cause="killed by SIGSEGV")
    assert control.receive(theirs) == control.ControlMessage(
        "died", {"pid": 7, "cause": "killed by SIGSEGV"}, ()
    )


def test_messages_stay_apart_and_in_order(ends):
    ours, theirs = ends
    for number in range(50):
        assert control.send(ours, "state", number=number)
    assert [control.receive(theirs).content["number"] for _ in range(50)] == list(range(50))
    assert control.receive(theirs) is None


def test_both_ends_may_send(ends):
    ours, theirs = ends
    control.send(theirs, "kill", pid=1)
    control.send(ours, "died", pid=1)
    assert (control.receive(ours).word, control.receive(theirs).word) == ("kill", "died")


def test_open_files_come_with_their_message_and_belong_to_the_receiver(ends):
    ours, theirs = ends
    left, right = socket.socketpair()
    reader, writer = os.pipe()
    control.send(ours, "worker", (right.fileno(), reader), pid=7, name="digest/1")
    right.close()
    os.close(reader)
    message = control.receive(theirs)
    link, output = message.files
    os.write(writer, b"out")
    left.send(b"in")
    assert (os.read(link, 9), os.read(output, 9)) == (b"in", b"out")
    for descriptor in (link, output, writer):
        os.close(descriptor)
    left.close()


def test_without_a_message_there_is_none_and_nobody_waits(ends):
    assert control.receive(ends[0]) is None


def test_the_other_sides_end_is_told_after_what_it_said_last(ends):
    ours, theirs = ends
    control.send(theirs, "state", state="done")
    theirs.close()
    assert control.receive(ours).content == {"state": "done"}
    with pytest.raises(EOFError):
        control.receive(ours)


def test_sending_to_who_is_gone_is_no_error(ends):
    ours, theirs = ends
    theirs.close()
    assert control.send(ours, "died", pid=1)


def test_who_hangs_takes_no_message_and_nobody_waits_for_it(ends):
    ours, _ = ends
    sent = 0
    while control.send(ours, "died", pid=1, cause="exit status 1"):
        sent += 1
        assert sent < 100_000
    assert sent > 10


def test_of_a_long_text_the_middle_is_left_out(ends):
    ours, theirs = ends
    assert control.send(theirs, "failure", reason="a" * 5000 + "\u20ac" * 100_000 + "z" * 5000)
    reason = control.receive(ours).content["reason"]
    assert (len(reason) <= 4096, reason[:9], reason[-9:]) == (True, "a" * 9, "z" * 9)


@pytest.mark.parametrize(
    "garbage",
    [
        b"\xff",
        b"7",
        b'["died", 7]',
        b'[7, {"pid": 7}]',
        b'["died"]',
        b'["state", {"state": "' + b"x" * 170_000 + b'"}]',
    ],
)
def test_what_is_no_message_of_ours_is_refused_and_the_next_one_is_read(ends, garbage):
    ours, theirs = ends
    theirs.send(garbage)
    control.send(theirs, "done")
    with pytest.raises(ValueError):  # noqa: PT011 -- of whatever reads it
        control.receive(ours)
    assert control.receive(ours).word == "done"


def test_what_a_consumer_tells_waits_for_room_and_comes_in_order(ends):
    ours, theirs = ends
    loop = EventLoop()
    reports = Reports(loop, ours)
    for number in range(1000):
        reports.send("kill", pid=number)
    heard = []

    def read():
        while message := control.receive(theirs):
            heard.append(message.content["pid"])
        if len(heard) == 1000:
            loop.stop()

    loop.watch(theirs, read)
    loop.call_later(10, loop.stop)
    loop.run()
    loop.close()
    assert heard == list(range(1000))


def test_what_a_supervisor_tells_waits_for_room_and_comes_in_order_and_whole(ends):
    ours, theirs = ends
    sender = control.Sender()
    reader, writer = os.pipe()
    for number in range(1000):
        sender.send(ours, "worker", (writer,), pid=number)
    os.close(writer)  # what waits has a copy
    assert sender.is_waiting
    heard = []
    while message := control.receive(theirs):
        heard.append(message.content["pid"])
        os.write(message.files[0], b".")
        os.close(message.files[0])
        sender.send_again(ours)
    assert heard == list(range(1000))
    assert not sender.is_waiting
    with os.fdopen(reader, "rb") as pipe:
        assert pipe.read() == b"." * 1000  # to its end: nobody has a copy any more


def test_what_waits_for_a_consumer_that_is_gone_is_forgotten_with_its_files(ends):
    sender = control.Sender()
    reader, writer = os.pipe()
    for _ in range(1000):
        sender.send(ends[0], "worker", (writer,))
    os.close(writer)
    sender.clear()
    assert not sender.is_waiting
    ends[0].close()
    ends[1].close()  # and with it what was on its way
    with os.fdopen(reader, "rb") as pipe:
        assert pipe.read() == b""
