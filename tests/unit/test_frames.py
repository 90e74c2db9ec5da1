import random
import struct

import pytest

from taskqueue.pool import frames
from taskqueue.pool.frames import FrameError, FrameReader, Kind, Outcome, Task, Verdict

TASK = Task(7, 2, "good", b"\0\0", b"\xffbody")
OUTCOME = Outcome(7, Verdict.SUCCEEDED, 1.5, 2.5, -1.0, "text/plain", "", b"\xffbody")
FAILED = Outcome(2**64 - 1, Verdict.FAILED, -1.0, 0.0, -1.0, "x" * 255, "Ürror: " + "y" * 100_000, b"")
RETRY = Outcome(3, Verdict.RETRY, 0.0, 0.0, 2.5, "a", "b", b"c")


def read(data, reader=None):
    return list((reader or FrameReader()).feed(data))


def test_every_frame_is_read_as_it_was_written():
    [(kind, nothing), (task, given), (outcome, done), (_, failed), (_, again), last] = read(
        frames.ready()
        + TASK.encode()
        + OUTCOME.encode()
        + FAILED.encode()
        + RETRY.encode()
        + frames.retiring()
    )
    assert (kind, task, outcome, nothing) == (Kind.READY, Kind.TASK, Kind.OUTCOME, b"")
    assert Task.decode(given) == TASK
    assert [Outcome.decode(done), Outcome.decode(failed)] == [OUTCOME, FAILED]
    assert Outcome.decode(again) == RETRY
    assert last == (Kind.RETIRING, b"")


def test_frames_may_come_byte_by_byte():
    reader, seen = FrameReader(), []
    for byte in frames.ready() + TASK.encode() + OUTCOME.encode():
        seen += read(bytes((byte,)), reader)
    assert [kind for kind, _ in seen] == [Kind.READY, Kind.TASK, Kind.OUTCOME]
    assert Task.decode(seen[1][1]) == TASK


def test_frames_may_come_in_pieces_of_any_size():
    dice = random.Random(2012)
    tasks = [
        Task(n, 1, "a", dice.randbytes(dice.randrange(50)), dice.randbytes(dice.randrange(5000)))
        for n in range(50)
    ]
    stream = b"".join(task.encode() for task in tasks)
    reader, seen = FrameReader(), []
    while stream:
        size = dice.choice((1, 5, 100, 20_000))
        seen += read(stream[:size], reader)
        stream = stream[size:]
    assert [Task.decode(payload) for _, payload in seen] == tasks


def test_an_error_that_is_no_utf_8_is_still_sent():
    [(_, payload)] = read(Outcome(1, Verdict.FAILED, 0.0, 0.0, -1.0, "", "\udcff!", b"").encode())
    assert Outcome.decode(payload).error == "?!"


def test_a_frame_that_is_too_long_is_neither_written_nor_believed():
    with pytest.raises(FrameError, match="167772161 bytes do not fit"):
        frames._head(Kind.TASK, frames.LONGEST_FRAME + 1)
    with pytest.raises(FrameError, match="a frame of 167772161 bytes"):
        read(struct.pack(">BI", Kind.OUTCOME, frames.LONGEST_FRAME + 1))


@pytest.mark.parametrize("number", [0, 6, 255])
def test_an_unknown_kind_is_refused_before_its_payload_comes(number):
    with pytest.raises(FrameError, match=f"unknown kind {number}"):
        read(struct.pack(">BI", number, 1000))


@pytest.mark.parametrize("item", [TASK, OUTCOME])
def test_every_truncation_of_a_payload_that_cuts_its_head_is_refused(item):
    [(_, payload)] = read(item.encode())
    for end in range(len(payload) - len(item.body)):
        with pytest.raises(FrameError, match=r"ends early|cannot be read"):
            type(item).decode(payload[:end])


def test_a_verdict_that_nobody_passes_is_refused():
    payload = bytearray(OUTCOME.encode()[5:])
    for verdict in (0, 5, 255):
        payload[8] = verdict
        with pytest.raises(FrameError, match="cannot be read"):
            Outcome.decode(bytes(payload))


def test_a_content_type_that_is_no_utf_8_is_refused():
    payload = bytearray(OUTCOME.encode()[5:])
    payload[payload.index(b"text/plain")] = 0xFF
    with pytest.raises(FrameError, match="cannot be read"):
        Outcome.decode(bytes(payload))


def test_garbage_is_a_frame_error_and_nothing_else():
    dice = random.Random(20122)
    whole = frames.ready() + OUTCOME.encode() + TASK.encode() + RETRY.encode()
    refused = 0
    for _ in range(1500):
        data = bytearray(whole)
        for _ in range(dice.randint(1, 6)):
            data[dice.randrange(len(data))] = dice.randrange(256)
        try:
            for kind, payload in FrameReader().feed(bytes(data)):
                if kind is Kind.OUTCOME:
                    Outcome.decode(payload)
                elif kind is Kind.TASK:
                    Task.decode(payload)
        except FrameError:
            refused += 1
    assert 300 < refused < 1500


def test_noise_is_a_frame_error():
    dice = random.Random(20123)
    for _ in range(300):
        noise = bytes((dice.choice((0, *range(5, 256))),)) + dice.randbytes(200)
        with pytest.raises(FrameError):
            read(noise)
