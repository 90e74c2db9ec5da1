"""The format of events: what is written is read, and what cannot be read is counted."""

import re
from pathlib import Path

import pytest

from taskqueue.messages import events
from taskqueue.messages.events import Begun, Emitter, Ended, LogLine, ProcessState, Progress, Rejected, Routed

EMITTER = Emitter("host1", "consumer", "thumbnails", 4711, 1_790_000_000.25)
EVENTS: list[events.Event] = [
    Routed("a", "good", 1_790_000_000.5, 17, None, "acme", "red blue", '{"text": "tab\there\\n\nand there"}'),
    Routed("b", "good", 1.0, 0, due=5.5),
    Ended(
        "a", "good", 2, "crashed", events.RETRYING, 3.0, 2.0, 1.0, "w1", "tq", again_at=9.0, error="SIGSEGV"
    ),
    Ended("b", "good", 1, "succeeded", events.SUCCEEDED, 3.0, peak_memory=12),
    Rejected("c", "", 4.0, "unroutable"),
    events.Cancelled("d", "good", 5.0),
    Begun("e", "good", 1, 6.0, ""),
    Progress("e", 7.0, 0.5),
    LogLine("e", 8.0, "w1", "INFO", ""),
    ProcessState(9.0, "takes work", 4, 2, 1 << 30, 0.25, 1, 7),
]


def written(*some: events.Event, number: int = 1) -> bytes:
    return events.encode(EMITTER, number, [events.line(each) for each in some])


def test_a_batch_is_read_as_it_was_written() -> None:
    batch = events.decode(written(*EVENTS, number=41))
    assert batch == (EMITTER, 41, len(EVENTS), EVENTS, 0)


def test_an_event_is_one_line_and_ends_with_its_last_value() -> None:
    assert events.line(Routed("a\tb", "good", 1.0, 17)) == "routed\ta\\tb\tgood\t1.000000\t17\n"
    assert events.line(LogLine("a", 1.0, "w1", "INFO", "")) == "log\ta\t1.000000\tw1\tINFO\t\n"


HOSTILE = [
    "\t",
    "\n",
    "\r\n",
    "\\",
    "\\t",
    "\\\\t\t",
    "a\\\n",
    "\x1b[2J",
    "<b>&",
    "\u2028",
    "\x00",
    "é€😀",
    "\x85",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_breaks_a_line(text: str) -> None:
    error, head, group = f"{text}x", f"x{text}", text * 3
    some = [
        Ended("a", "good", 1, "failed", events.FAILED, 3.0, error=error, traceback=head),
        Routed("a", "good", 1.0, 1, head=head),
    ]
    emitter = EMITTER._replace(group=group)
    body = events.encode(emitter, 1, [events.line(each) for each in some])
    assert events.decode(body) == (emitter, 1, 2, some, 0)


def test_surrogates_become_question_marks() -> None:
    batch = events.decode(written(Routed("a", "good", 1.0, 1, head="\udce9")))
    assert batch.events == [Routed("a", "good", 1.0, 1, head="?")]


def test_unknown_kinds_and_further_fields_are_ignored() -> None:
    lines = "later\ta\tb\n", events.line(Routed("a", "good", 1.0, 1, head="x"))[:-1] + "\tfurther\n"
    batch = events.decode(events.encode(EMITTER, 5, lines))
    assert (batch.size, batch.damaged) == (2, 0)
    assert batch.events == [Routed("a", "good", 1.0, 1, head="x")]


@pytest.mark.parametrize(
    "damaged",
    [
        "routed\n",
        "routed\t\tgood\t1.0\t17\n",
        f"routed\t{'x' * 10_000}\tgood\t1.0\t17\n",
        "routed\ta\tgood\tnan\t17\n",
        "routed\ta\tgood\t1e300\t17\n",
        "routed\ta\tgood\t1.0\t-1\n",
        f"routed\ta\tgood\t1.0\t{'9' * 5000}\n",
        "routed\ta\tgood\t\t17\n",
        "ended\ta\tgood\tfirst\tsucceeded\tsucceeded\t3.0\n",
    ],
)
def test_a_damaged_event_is_counted_and_the_others_are_read(damaged: str) -> None:
    batch = events.decode(events.encode(EMITTER, 1, [damaged, events.line(EVENTS[0])]))
    assert (batch.size, batch.events, batch.damaged) == (2, EVENTS[:1], 1)


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        (b"", "its first line begins with ''; expected 'taskqueue-events'"),
        (b'{"json": 1}', "its first line begins with '{\"json\": 1}'"),
        (b"\xff" * 100, "its first line begins with"),
        (written().replace(b"\t1\t", b"\t2\t", 1), "version '2' of the format; expected 1"),
        (b"taskqueue-events\t1\thost", "its first line names no emitter"),
        (written().replace(b"4711", b"first"), "its first line names no emitter"),
        (bytes(events.LARGEST_BATCH + 1), "16777217 bytes; expected at most 16777216"),
    ],
)
def test_a_message_that_is_no_batch_is_refused(body: bytes, fault: str) -> None:
    with pytest.raises(events.UnreadableBatch) as caught:
        events.decode(body)
    assert fault in str(caught.value)


def test_the_protocol_lists_the_fields_of_each_kind_in_order() -> None:
    text = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| [^|]+ \| ((?:`\w+` ?)+)\|$", text, re.MULTILINE)
    listed = {kind: re.findall(r"`(\w+)`", fields) for kind, fields in rows}
    assert listed == {kind: list(event._fields) for kind, event in events.KINDS.items()}


def test_nul_in_an_id_is_read_as_a_character_that_sqlite_does_not_stop_at() -> None:
    (event,) = events.decode(written(Routed("a\0b", "good", 1.0, 0))).events
    assert event == Routed("a\ufffdb", "good", 1.0, 0)


@pytest.mark.parametrize(
    ("event", "field", "longest"),
    [
        (EVENTS[2], "traceback", 16_384),
        (EVENTS[2], "error", 8192),
        (EVENTS[2], "labels", 500),
        (EVENTS[2], "tenant", 255),
        (EVENTS[2], "worker", 255),
        (EVENTS[0], "worker_type", 255),
        (EVENTS[0], "head", 65_536),
        (EVENTS[4], "reason", 8192),
        (EVENTS[7], "text", 16_384),
        (EVENTS[8], "text", 16_384),
        (EVENTS[8], "level", 255),
        (EVENTS[9], "state", 255),
    ],
)
@pytest.mark.parametrize("character", ["x", "\\", "\t"])
def test_of_a_longer_text_than_ours_the_beginning_is_read(
    event: events.Event, field: str, longest: int, character: str
) -> None:
    for more in (0, 1, 100_000):
        sent = event._replace(**{field: "a" + character * (longest - 1 + more)})
        (read,) = events.decode(written(sent)).events
        assert getattr(read, field) == "a" + character * (longest - 1)


def test_a_result_is_read_as_a_whole_or_not_at_all() -> None:
    mebibyte = "QUJD" * ((1 << 20) // 3 + 1)
    for sent, kept in ((mebibyte, mebibyte), (mebibyte * 2, "")):
        (read,) = events.decode(written(EVENTS[3]._replace(result=sent))).events
        assert read.result == kept


def test_of_an_emitter_with_long_names_their_beginnings_are_read() -> None:
    emitter = Emitter("h" * 2000, "k" * 2000, "g" * 2000, 1, 2.0)
    read = events.decode(events.encode(emitter, 1, [])).emitter
    assert read == Emitter("h" * 255, "k" * 255, "g" * 255, 1, 2.0)


def test_an_event_is_shortened_to_a_size_in_bytes() -> None:
    text = events.line(
        EVENTS[2]._replace(result="QUJD" * 100, content_type="a/b", traceback="\u20ac\t" * 100)
    )
    assert events.within(text, len(text.encode())) == (text, len(text.encode()))
    for most, omitted in (
        (len(text.encode()) - 1, "result"),
        (300, "result traceback"),
        (10, "result traceback"),
    ):
        shorter, size = events.within(text, most)
        assert size == len(shorter.encode())
        (read,) = events.decode(events.encode(EMITTER, 1, [shorter])).events
        assert (read.omitted, read.result, read.content_type) == (omitted, "", "")
        assert read._replace(omitted="", traceback="") == EVENTS[2]
