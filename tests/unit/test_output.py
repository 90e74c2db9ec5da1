import os
import time

import pytest
from support.waiting import wait_until

from taskqueue.consumer.output import OutputPump


class Pipe:
    """A worker's output and what becomes of it."""

    def __init__(self, rate):
        reader, self.writer = os.pipe()
        os.set_blocking(self.writer, False)
        self.lines = []
        self.numbers = []  # the tasks of the lines
        self.pump = OutputPump(reader, rate, self.take)

    def take(self, line, number):
        self.lines.append(line)
        self.numbers.append(number)

    def print(self, number, text):
        """Write as the worker does that performs a task."""
        piece = text.encode()
        self.write(b"\0%d %d\0%b" % (number, len(piece), piece))

    def write(self, data):
        assert os.write(self.writer, data) == len(data)
        self.pump.drain()

    def end(self):
        os.close(self.writer)
        self.writer = None
        self.pump.close()
        return self.lines


@pytest.fixture
def pipe():
    made = []

    def make(rate=100):
        made.append(Pipe(rate))
        return made[-1]

    yield make
    for each in made:
        if each.writer is not None:
            each.end()


def test_output_is_passed_on_line_by_line(pipe):
    output = pipe()
    output.write(b"one\ntwo\n\nfour\n")
    assert output.lines == ["one", "two", "", "four"]


def test_a_line_is_passed_on_once_it_is_whole(pipe):
    output = pipe()
    output.write(b"one\ntw")
    assert output.lines == ["one"]
    output.write(b"o\n")
    assert output.lines == ["one", "two"]


def test_a_last_line_without_an_end_is_passed_on_at_the_end(pipe):
    output = pipe()
    output.write(b"one\ntwo")
    assert output.end() == ["one", "two"]


def test_what_was_written_just_before_the_end_is_passed_on(pipe):
    output = pipe()
    os.write(output.writer, b"last words\nat all")
    assert output.end() == ["last words", "at all"]


def test_bytes_that_are_no_utf_8_are_replaced(pipe):
    output = pipe()
    output.write(b"gr\xfc\xdf \xc3\xbc\n")
    assert output.lines == ["gr�� ü"]


def test_a_long_line_is_cut_up_with_nothing_lost(pipe):
    output = pipe()
    output.write(b"x" * 10_000 + b"\ny\n")
    assert [len(line) for line in output.lines] == [4096, 4096, 1808, 1]


def test_a_line_that_never_ends_does_not_pile_up(pipe):
    output = pipe()
    for _ in range(10):
        output.write(b"x" * 10_000)
    assert sum(map(len, output.lines)) > 100_000 - 4097
    assert output.end()[-1] == "x" * (100_000 % 4096)


def test_lines_beyond_the_rate_are_counted_and_dropped(pipe):
    output = pipe(rate=10)
    output.write(b"".join(b"%d\n" % number for number in range(500)))
    assert output.lines[:20] == [str(number) for number in range(20)]  # two seconds' worth at once
    passed = len(output.lines)
    assert passed < 25
    assert output.end()[passed:] == [f"({500 - passed} lines dropped: more than 10 a second)"]


def test_of_a_flood_every_line_is_counted_and_the_last_one_goes_on(pipe):
    output = pipe(10)
    for _ in range(3):
        output.write(b"\n" * 60_000)
    output.write(b"half ")
    output.pump._tokens = 5.0
    output.write(b"a line\n")
    assert output.lines[-1] == "half a line"
    dropped = [int(line.split()[0][1:]) for line in output.lines if line.endswith("more than 10 a second)")]
    assert sum(dropped) + output.lines.count("") == 180_000


def test_a_flood_that_lasts_is_told_of_once_a_second_and_not_beside_each_line_that_passes(pipe):
    output = pipe(10)
    output.write(b"flood\n" * 100)
    output.pump._tokens = 1.0
    output.write(b"passes\n")
    told = len(output.lines)
    output.pump._reported = time.monotonic() + 3600  # a moment ago, for as long as this takes
    for _ in range(20):
        output.pump._tokens = 1.0
        output.write(b"passes\n" + b"drops\n" * 4)
    assert set(output.lines[told:]) == {"passes"}
    lines = output.end()
    notes = [int(line.split()[0][1:]) for line in lines if line.endswith("more than 10 a second)")]
    assert sum(notes) == 100 + 1 + 20 * 5 - (len(lines) - len(notes))


def test_pieces_of_long_lines_count_as_lines(pipe):
    output = pipe(rate=10)
    output.write((b"x" * 30_000 + b"\n") * 2)
    output.write((b"x" * 30_000 + b"\n") * 2)
    assert len(output.lines) < 25
    assert output.end()[-1].endswith(" lines dropped: more than 10 a second)")


def test_after_a_flood_lines_pass_again_and_the_dropped_ones_are_told_first(pipe):
    output = pipe(rate=40)
    output.write(b"flood\n" * 200)
    passed = len(output.lines)

    def is_heard():
        output.write(b"again\n")
        return "again" in output.lines

    wait_until(is_heard)
    told, heard = output.lines[passed : passed + 2]
    assert told.endswith(" lines dropped: more than 40 a second)")
    assert int(told.split()[0][1:]) >= 200 - passed
    assert heard == "again"


def test_lines_of_a_task_that_goes_on_after_a_flood_of_others_are_passed_on_later(pipe):
    output = pipe(rate=5)
    for number in range(1, 101):
        output.print(number, f"task {number}\n")
    passed = len(output.lines)
    output.print(500, "waits for\n")
    output.print(500, "the printer\n")
    assert len(output.lines) == passed
    output.pump._refilled -= 1  # a second later
    output.pump.catch_up()
    assert output.lines[passed:] == [
        *(f"({100 - passed} lines dropped: more than 5 a second)", "waits for", "the printer"),
    ]
    assert output.numbers[passed:] == [0, 500, 500], "the dropped lines are of several tasks"
    assert not output.pump.is_behind


def test_the_last_lines_of_a_task_that_kills_its_worker_are_passed_on(pipe):
    output = pipe(rate=1)
    output.print(1, "".join(f"line {number}\n" for number in range(300)))
    passed = len(output.lines)
    lines = output.end()
    assert lines[passed:] == [
        f"({300 - passed - 20} lines dropped: more than 1 a second)",
        *(f"line {number}" for number in range(280, 300)),
    ]
    assert set(output.numbers) == {1}


def test_a_task_that_floods_gets_no_more_than_the_rate(pipe):
    output = pipe(rate=10)
    for number in range(100):
        output.print(1, f"{number}\n" * 50)
    seconds, begun = 30, time.monotonic()
    for _ in range(seconds):
        output.pump._refilled -= 1
        output.print(1, "x\n" * 200)
        output.pump.catch_up()
    said = [line for line in output.lines if "dropped" not in line]
    assert 10 * seconds <= len(said) <= 10 * (seconds + 3 + time.monotonic() - begun), "and a burst at first"
    output.end()
    lost = sum(int(line.split()[0][1:]) for line in output.lines if "dropped" in line)
    assert lost + sum("dropped" not in line for line in output.lines) == 100 * 50 + seconds * 200


def test_at_a_rate_of_0_no_line_is_passed_on(pipe):
    output = pipe(rate=0)
    output.print(1, "a\nb\n")
    assert output.end() == ["(2 lines dropped: more than 0 a second)"]


def test_the_pump_tells_whether_more_may_come(pipe):
    output = pipe()
    assert output.pump.pump()
    os.write(output.writer, b"a\n")
    assert output.pump.pump()
    os.close(output.writer)
    output.writer = None
    assert not output.pump.pump()
    output.pump.close()


def test_a_closed_pump_has_closed_its_pipe(pipe):
    output = pipe()
    output.pump.close()
    with pytest.raises(BrokenPipeError):
        os.write(output.writer, b"x")
    os.close(output.writer)
    output.writer = None
