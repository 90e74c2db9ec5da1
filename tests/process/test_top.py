"""`taskqueue top`: one overview without a terminal; screens, keys and a restored terminal with one."""

import json
import os
import signal
import time

import pytest
from rich.cells import cell_len
from support.recorded import CONSUMER, ENDED, batch, write_record
from support.screen import HIDDEN, OTHER_SCREEN, SHOWN, USUAL_SCREEN, Screen

from taskqueue.messages.events import Begun, Ended, LogLine, Progress
from taskqueue.monitor.store.store import Store

HOSTILE = "E\x1b[31mred\x1b]0;title\x07 [bold]markup[/] <b>\u202e\r\nnext"


@pytest.fixture
def screen(site):
    """Start `taskqueue top` on a terminal."""
    started = []

    def start(*arguments, width=80, height=24, command=None, **env):
        started.append(Screen(command or site.command("top", *arguments), env, width, height))
        return started[-1]

    yield start
    for each in started:
        each.close()


@pytest.fixture
def config(tmp_path):
    directory, now = tmp_path / "record", time.time()
    write_record(directory)
    running = [
        Begun("slow-1", "video", 1, now - 3000, "video/1"),
        Progress("slow-1", now - 5, 0.4, "frame 12"),
        LogLine("slow-1", now - 4, "video/1", "info", f"prints {HOSTILE}"),
    ]
    failed = [
        Ended(f"bad-{number}", "video", 1, "failed", "failed", now - 30, now - 31, worker="video/1",
              error=f"OSError: disk {number} full", traceback="Traceback: the innermost line")
        for number in range(12)
    ]  # fmt: skip
    hostile = Ended(
        "evil", "video", 1, "failed", "failed", now - 20, now - 21, error=HOSTILE, traceback=HOSTILE
    )
    with Store(directory) as store:
        store.write([(3, batch(CONSUMER, len(ENDED), [*running, *failed, hostile]))])
    path = tmp_path / "monitor.ini"
    path.write_text(f"[monitor]\ndatabase: {directory}\n")
    return str(path)


# --- screens and keys ---


def test_each_screen_fits_a_terminal_of_80_columns_and_24_lines(screen, config):
    top = screen("-c", config)
    top.wait_for("Busy workers: host2 1 of 4")
    for key, word in ((b"o", "succeeded"), (b"t", "run p95"), (b"r", "slow-1"), (b"d", "error of the newest"),
                      (b"?", "Shift-Tab")):  # fmt: skip
        top.show(key, word)
        lines = top.lines()
        assert len(lines) == 24
        assert max(map(cell_len, lines)) <= 80
    assert top.show(b"x", "error of the newest")  # any key closes the help
    top.press(b"q")
    assert top.end() == 0


def test_the_overview_has_what_needs_attention_the_hour_and_the_backlog(screen, config):
    top = screen("-c", config)
    top.wait_for("Busy workers")
    text = top.text()
    assert "3 waiting, 2 running, 0 retrying; types by waiting" in text
    assert "! video: 13 of 13 failed, 100 %" in text
    assert "! video: a workitem has run for 50 min" in text
    assert [line for line in top.lines() if line.startswith("failed") and line.rstrip().endswith("14")]
    assert next(line.split() for line in top.lines() if line.startswith("digest "))[:2] == ["digest", "2"]


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (b"t", ["worker types, by waiting", "wait"]),
        (b"2", ["worker types, by waiting"]),
        (b"\t", ["worker types, by waiting"]),
        (b"r", ["2 running, the longest first"]),
        (b"3", ["2 running, the longest first"]),
        (b"d", ["in 4 groups of one error"]),
        (b"4", ["in 4 groups of one error"]),
        (b"w", ["5 Workflows", "no broker: expected --amqp"]),
        (b"\x1b[Z\x1b[Z", ["in 4 groups of one error"]),
        (b"do", ["types by waiting"]),
        (b"d1", ["types by waiting"]),
        (b"tss", ["worker types, by failed"]),
    ],
)
def test_a_key_leads_to_its_screen(screen, config, keys, words):
    top = screen("-c", config)
    top.wait_for("Busy workers")
    top.show(keys, *words)


@pytest.mark.parametrize(
    "down",
    [b"j", b"\x1b[B", b"\x1bOB", b"\x1b[F", b"G", b"\x1b[6~"],
    ids=["j", "xterm", "vt", "end", "G", "page"],
)
def test_a_row_is_selected_by_keys_and_enter_shows_its_details(screen, config, down):
    top = screen("-c", config)
    top.wait_for("Busy workers")
    top.show(b"r", "slow-1", "south-2", "40% frame 12")
    text = top.show(down + b"\r", "Esc back", "state")
    assert text.splitlines()[2].split() == ["id", "south-2"]
    text = top.show(b"\x1b", "the longest first", "slow-1")
    text = top.show(
        {b"j": b"k", b"\x1b[B": b"\x1b[A", b"\x1bOB": b"\x1bOA"}.get(down, b"g") + b"\n", "Output"
    )
    assert text.splitlines()[2].split() == ["id", "slow-1"]
    assert "40% frame 12" in text


def test_the_details_of_a_type_and_of_dead_letters(screen, config):
    top = screen("-c", config)
    top.wait_for("Busy workers")
    text = top.show(b"t\r", "The last hour", "run time")
    assert "digest on host2, process 22" in text
    assert "1 of 4 workers are busy" in text
    text = top.show(b"d\r", "The newest", "Traceback: the innermost line")
    assert "taskqueue failed retry --type video" in text
    assert "OSError: disk" in text
    assert "count        12" in text


def test_details_longer_than_the_terminal_are_scrolled(screen, config):
    top = screen("-c", config, height=12)
    top.wait_for("succeeded")
    top.show(b"d\r", "error", "count")
    assert "the innermost line" not in top.text()
    top.show(b"G", "the innermost line")
    top.show(b"g", "count")


def test_a_filter_keeps_rows_with_its_text(screen, config):
    top = screen("-c", config)
    top.wait_for("Busy workers")
    text = top.show(b"/IMA", "/IMA_", "image-small")
    assert "digest  " not in text
    assert "mail  " not in text
    assert "with 'IMA'" in top.show(b"\r", "q quit")
    top.show(b"/\x7f\x7f\x7fnothing\n", "No row has this text.")
    assert "with" not in top.show(b"\x1b", "digest  ").splitlines()[1]
    top.show(b"/q", "/q_")  # it is typed, and does not quit
    top.show(b"\x15dig", "/dig_")
    top.show(b"\x1b", "mail  ")


def test_hostile_text_stays_text(screen, config):
    top = screen("-c", config)
    top.wait_for("Busy workers")
    text = top.show(b"d", r"E\x1b[31mred\x1b]0;title\x07 [bold]markup")
    row = next(number for number, line in enumerate(text.splitlines()) if "markup" in line) - 3
    text = top.show(b"j" * row + b"\r", "The newest", "evil")
    assert r"E\x1b[31mred\x1b]0;title\x07 [bold]markup[/] <b>\u202e" in text
    top.show(b"\x1br\r", r"prints E\x1b[31mred")
    assert "\x1b]0;" not in top.output
    assert "\u202e" not in top.output
    assert "\x1b[31m" not in top.output


def test_the_screen_follows_the_size_of_the_terminal(screen, config):
    top = screen("-c", config)
    top.wait_for("Busy workers")
    for width, height in ((120, 40), (40, 10), (20, 5), (200, 24)):
        top.resize(width, height)
        top.wait_until(lambda each, height=height: len(each.lines()) == height)
        assert max(map(cell_len, top.lines())) <= width
    top.resize(1, 1)
    top.resize(80, 24)
    top.wait_for("Busy workers")


def test_a_record_that_cannot_be_read_any_more_is_said_and_waited_for(screen, config, tmp_path):
    top = screen("-c", config)
    top.wait_for("Busy workers")
    (tmp_path / "record").rename(tmp_path / "elsewhere")
    top.wait_for("record")
    (tmp_path / "elsewhere").rename(tmp_path / "record")
    top.wait_until(lambda each: "Busy workers" in each.text() and "record" not in each.text())


# --- the terminal is put back ---


def assert_restored(top):
    assert top.current_modes() == top.modes
    assert top.output.rindex(USUAL_SCREEN) > top.output.rindex(OTHER_SCREEN)
    assert top.output.rindex(SHOWN) > top.output.rindex(HIDDEN)
    assert "Traceback (most" not in top.output


@pytest.mark.parametrize(
    ("keys", "status"),
    [(b"q", 0), (b"\x03", 0), (b"\x04", 0), (b"\x1c", 131)],
    ids=["q", "C-c", "C-d", "C-backslash"],
)
def test_a_key_that_ends_it_puts_the_terminal_back(screen, config, keys, status):
    top = screen("-c", config)
    top.wait_for("Busy workers")
    assert top.current_modes() != top.modes
    top.press(keys)
    assert top.end() == status
    assert_restored(top)


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 0)]
)
def test_a_signal_that_ends_it_puts_the_terminal_back(screen, config, number, status):
    top = screen("-c", config)
    top.wait_for("Busy workers")
    top.process.send_signal(number)
    assert top.end() == status
    assert_restored(top)


def test_an_exception_puts_the_terminal_back(screen, site, config):
    """The record is damaged so that reading it raises what is no error of ours."""
    code = (
        "import sys; from taskqueue.cli import main; from taskqueue.cli.screens.types import Types;"
        "Types.read = lambda *_: 1 / 0;"
        f"main(['top', '-c', {config!r}])"
    )
    top = screen(command=[site.command("top")[0], "-c", code])
    top.wait_for("Busy workers")
    top.press(b"t")
    assert top.end() == 1
    assert top.current_modes() == top.modes
    assert top.output.rindex(USUAL_SCREEN) > top.output.rindex(OTHER_SCREEN)
    assert "ZeroDivisionError" in top.output[top.output.rindex(USUAL_SCREEN) :]


def test_ctrl_z_suspends_it_and_fg_brings_it_back(screen, site, config):
    shell = screen(command=["bash", "--norc", "--noprofile", "-i"], PS1="prompt> ", HISTFILE="")
    shell.wait_until(lambda each: "prompt> " in each.output)
    command = " ".join(site.command("top", "-c", config))
    shell.press(f"stty -a >/dev/null; {command}; echo status $?\n".encode())
    shell.wait_for("Busy workers")
    shell.press(b"\x1a")
    shell.wait_until(lambda each: "Stopped" in each.output)
    assert shell.output.rindex(USUAL_SCREEN) > shell.output.rindex(OTHER_SCREEN)
    assert shell.output.rindex(SHOWN) > shell.output.rindex(HIDDEN)
    shell.press(b"stty -a\n")
    shell.wait_until(lambda each: " icanon " in each.output and " echo " in each.output)
    shell.press(b"fg\n")
    shell.wait_until(lambda each: each.output.rindex(OTHER_SCREEN) > each.output.rindex(USUAL_SCREEN))
    shell.wait_for("Busy workers")
    shell.show(b"t", "run p95")
    shell.press(b"q")
    shell.wait_until(lambda each: each.output.rindex(USUAL_SCREEN) > each.output.rindex(OTHER_SCREEN))
    shell.press(b"exit\n")
    shell.wait_until(lambda each: each.process.poll() is not None)


def test_it_ends_when_its_terminal_is_gone(site, config):
    top = Screen(site.command("top", "-c", config), {})
    top.wait_for("Busy workers")
    os.close(top.other)
    os.close(top._terminal)
    assert top.process.wait(20) == 129


# --- without a terminal, without a monitor ---


def test_without_a_terminal_it_prints_one_overview(site, config):
    done = site.run("top", "-c", config)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Worker types" in done.stdout
    content = json.loads(site.run("top", "-c", config, "--format", "json").stdout)
    assert {each["worker_type"] for each in content["types"]} >= {"digest", "mail"}
    assert content["note"] == ""


def test_on_a_terminal_that_cannot_be_drawn_on_it_prints_one_overview(screen, config):
    top = screen("-c", config, TERM="dumb")
    assert top.end() == 0
    assert OTHER_SCREEN not in top.output
    assert "Worker types" in top.output


def test_without_a_monitor_it_shows_what_happens_from_now_on(site, work, screen, tmp_path):
    top = screen("--amqp", site.url, XDG_STATE_HOME=str(tmp_path))
    top.wait_for("no monitor runs: events since")
    assert "what was queued before is unknown" in " ".join(top.text().split())
    site.pool("[good]\nworkers: 2")
    work.submit("good", 1)
    top.wait_for("0 of 2")
    assert work.result().status == "succeeded"
    top.wait_until(lambda each: any(line.split()[:1] == ["good"] for line in each.lines()))
    top.show(b"t\r", "good", "takes work", "0 of 2 workers are busy")
    top.show(b"d", "before: taskqueue failed list")
    top.show(b"r", "what began before is unknown")
    top.press(b"q")
    assert top.end() == 0


def test_without_a_monitor_and_a_broker_it_says_so(site, tmp_path):
    done = site.run("top", "--amqp", "amqp://127.0.0.1:1", "--monitor", "http://127.0.0.1:1")
    assert done.returncode == 69
    assert (
        done.stderr == "taskqueue: the monitor at http://127.0.0.1:1 cannot be reached: Connection refused\n"
    )
