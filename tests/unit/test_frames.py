import random
import struct

import pytest

from taskqueue.worker import frames
from taskqueue.worker.frames import FrameError, FrameReader, Kind, Outcome, ProgressFrame, TaskFrame, Verdict

NAN, INFINITY = float("nan"), float("inf")
TEN_YEARS = 315_576_000.0

TASK = TaskFrame(7, 2, "good", b"\0\0", b"\xffbody")
OUTCOME = Outcome(7, Verdict.SUCCEEDED, 1.5, 2.5, -1.0, "text/plain", "", b"\xffbody")
FAILED = Outcome(2**64 - 1, Verdict.FAILED, 0.0, 0.0, -1.0, "x" * 255, "Ürror: " + "y" * 8000, b"")
PROGRESS = ProgressFrame(7, 0.5, "half")
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
    assert TaskFrame.decode(given) == TASK
    assert [Outcome.decode(done), Outcome.decode(failed)] == [OUTCOME, FAILED]
    assert Outcome.decode(again) == RETRY
    assert last == (Kind.RETIRING, b"")


def test_frames_may_come_byte_by_byte():
    reader, seen = FrameReader(), []
    for byte in frames.ready() + TASK.encode() + OUTCOME.encode():
        seen += read(bytes((byte,)), reader)
    assert [kind for kind, _ in seen] == [Kind.READY, Kind.TASK, Kind.OUTCOME]
    assert TaskFrame.decode(seen[1][1]) == TASK


def test_frames_may_come_in_pieces_of_any_size():
    dice = random.Random(2012)
    tasks = [
        TaskFrame(n, 1, "a", dice.randbytes(dice.randrange(50)), dice.randbytes(dice.randrange(5000)))
        for n in range(50)
    ]
    stream = b"".join(task.encode() for task in tasks)
    reader, seen = FrameReader(), []
    while stream:
        size = dice.choice((1, 5, 100, 20_000))
        seen += read(stream[:size], reader)
        stream = stream[size:]
    assert [TaskFrame.decode(payload) for _, payload in seen] == tasks


def test_an_error_that_is_no_utf_8_is_still_sent():
    [(_, payload)] = read(Outcome(1, Verdict.FAILED, 0.0, 0.0, -1.0, "", "\udcff!", b"").encode())
    assert Outcome.decode(payload).error == "?!"


def test_a_frame_that_is_too_long_is_neither_written_nor_believed():
    with pytest.raises(FrameError, match="frame of 167772161 bytes; the maximum is 167772160"):
        frames._head(Kind.TASK, frames.LONGEST_FRAME + 1)
    with pytest.raises(FrameError, match="OUTCOME frame of 167772161 bytes"):
        read(struct.pack(">BI", Kind.OUTCOME, frames.LONGEST_FRAME + 1))


@pytest.mark.parametrize("number", [0, 6, 255])
def test_an_unknown_kind_is_refused_before_its_payload_comes(number):
    with pytest.raises(FrameError, match=f"unknown kind {number}"):
        read(struct.pack(">BI", number, 1000))


@pytest.mark.parametrize("item", [TASK, OUTCOME])
def test_every_truncation_of_a_payload_that_cuts_its_head_is_refused(item):
    [(_, payload)] = read(item.encode())
    for end in range(len(payload) - len(item.body)):
        with pytest.raises(FrameError, match=r"truncated|invalid OUTCOME frame"):
            type(item).decode(payload[:end])


def test_every_truncation_of_the_head_of_progress_is_refused():
    [(_, payload)] = read(PROGRESS.encode())
    assert ProgressFrame.decode(payload) == PROGRESS
    for end in range(len(payload) - len("half")):
        with pytest.raises(FrameError, match="truncated"):
            ProgressFrame.decode(payload[:end])


def test_a_verdict_that_nobody_passes_is_refused():
    payload = bytearray(OUTCOME.encode()[5:])
    for verdict in (0, 5, 255):
        payload[8] = verdict
        with pytest.raises(FrameError, match="invalid OUTCOME frame"):
            Outcome.decode(bytes(payload))


def test_a_content_type_that_is_no_utf_8_is_refused():
    payload = bytearray(OUTCOME.encode()[5:])
    payload[payload.index(b"text/plain")] = 0xFF
    with pytest.raises(FrameError, match="invalid OUTCOME frame"):
        Outcome.decode(bytes(payload))


def test_garbage_is_a_frame_error_and_nothing_else():
    dice = random.Random(20122)
    whole = frames.ready() + OUTCOME.encode() + TASK.encode() + RETRY.encode() + PROGRESS.encode()
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
                    TaskFrame.decode(payload)
                elif kind is Kind.PROGRESS:
                    ProgressFrame.decode(payload)
        except FrameError:
            refused += 1
    assert 300 < refused < 1500


def test_noise_is_a_frame_error():
    dice = random.Random(20123)
    for _ in range(300):
        noise = bytes((dice.choice((0, *range(5, 256))),)) + dice.randbytes(200)
        with pytest.raises(FrameError):
            read(noise)


# --- what a worker writes, which may be anything ---


@pytest.mark.parametrize("time", [NAN, INFINITY, -INFINITY, -1.0, 1e300])
@pytest.mark.parametrize("field", ["started", "ended"])
def test_an_outcome_with_an_impossible_time_is_refused(field, time):
    with pytest.raises(FrameError, match="invalid times"):
        decoded(OUTCOME._replace(**{field: time}))


@pytest.mark.parametrize("delay", [NAN, INFINITY, -INFINITY, -2.0, TEN_YEARS + 1])
def test_an_outcome_with_a_delay_of_more_than_ten_years_is_refused(delay):
    with pytest.raises(FrameError, match="invalid times"):
        decoded(RETRY._replace(delay=delay))
    assert decoded(RETRY._replace(delay=TEN_YEARS)).delay == TEN_YEARS


@pytest.mark.parametrize("content_type", ["a\0", "a\r\nb", "\x1b[2J", "\x7f"])
def test_an_outcome_with_control_characters_in_its_content_type_is_refused(content_type):
    with pytest.raises(FrameError, match="content type"):
        decoded(OUTCOME._replace(content_type=content_type))


def test_an_outcome_with_an_endless_error_is_refused():
    with pytest.raises(FrameError, match="an error of 12582912 bytes"):
        decoded(FAILED._replace(error="\0" * 12 * 1024 * 1024))


@pytest.mark.parametrize("fraction", [NAN, INFINITY, -0.5, 1.5])
def test_progress_that_is_no_part_of_the_whole_is_refused(fraction):
    [(_, payload)] = read(frames.ProgressFrame(1, fraction, "").encode())
    with pytest.raises(FrameError, match="expected 0 to 1"):
        frames.ProgressFrame.decode(payload)


@pytest.mark.parametrize(
    ("head", "kind"),
    [(b"\5\0\0\x21\0", "PROGRESS"), (b"\1\0\5\0\0", "READY"), (b"\4\0\0\0\1", "RETIRING")],
)
def test_a_frame_that_is_longer_than_its_kind_allows_is_refused_before_it_has_come(head, kind):
    with pytest.raises(FrameError, match=f"{kind} frame of [0-9]+ bytes"):
        read(head)


def test_as_many_services_as_a_worker_may_have_are_read_and_no_more():
    services = [frames.Service("a" * 95 + f"{number:05}", 1.0, 3) for number in range(frames.MOST_SERVICES)]
    [(_, payload)] = read(frames.ready(services))
    assert frames.services_of(payload) == tuple(services)
    [(_, payload)] = read(frames.ready([*services, frames.Service("b")]))
    with pytest.raises(FrameError, match="1001 worker types"):
        frames.services_of(payload)


@pytest.mark.parametrize(
    "service", ['["a", NaN, 1]', '["a", 1e999, 1]', '["a", -1, 1]', '["a", 1, -1]', '["a", 1, 1e99]',
                '["a", 1, Infinity]', '["a", [], 1]', '["", 1, 1]', '["a b", 1, 1]', "[1, 1, 1]", '["a"]']
)  # fmt: skip
def test_a_service_with_an_impossible_value_is_refused(service):
    with pytest.raises(FrameError):
        frames.services_of(f"[{service}]".encode())


def test_a_worker_type_that_is_named_twice_is_refused():
    [(_, payload)] = read(frames.ready([frames.Service("a"), frames.Service("b"), frames.Service("a", 1.0)]))
    with pytest.raises(FrameError, match="worker type 'a' 2 times"):
        frames.services_of(payload)


@pytest.mark.parametrize("payload", [b"7", b"{}x", b"[" * 100_000, b"\xff"])
def test_services_that_are_no_list_are_refused(payload):
    with pytest.raises(FrameError):
        frames.services_of(payload)


def decoded(outcome):
    [(_, payload)] = read(outcome.encode())
    return Outcome.decode(payload)
