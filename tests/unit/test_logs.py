import json
import logging
import os
import re
import socket
import subprocess
from datetime import datetime

import pytest

from taskqueue.config import LoggingSettings
from taskqueue.errors import ConfigError
from taskqueue.process import logs
from taskqueue.process.logs import Log, escape, set_up


@pytest.fixture(autouse=True)
def _own_handlers(monkeypatch):
    """Put pytest's own handlers aside, and back again."""
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    root, pika = logging.getLogger(), logging.getLogger("pika")
    before = root.handlers[:], root.level, pika.level
    root.handlers.clear()
    yield
    for handler in root.handlers:
        handler.close()
    root.handlers[:], root.level, pika.level = before
    logging.getLogger().setLevel(before[1])


PAGE, SMALL = 4096, 64 * 1024  # bytes


@pytest.fixture
def small_disk(tmp_path):
    """A file system that is soon full."""
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SMALL}", "tmpfs", str(tmp_path)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("a small file system takes root who may mount")
    yield tmp_path
    logging.getLogger().handlers.clear()
    subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)


def settings(level="info", format="text", destination="stderr"):  # noqa: A002
    return LoggingSettings(level=level, format=format, destination=str(destination))


def test_a_text_line_has_time_level_process_and_context(capfd):
    set_up(settings(), "dispatcher")
    Log("taskqueue.x", group="digest").info("routed to %s", "worker_digest", workitem="w1")
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} INFO dispatcher: "
        r"routed to worker_digest \[group=digest workitem=w1\]\n",
        capfd.readouterr().err,
    )


def test_a_line_without_context_has_no_brackets(capfd):
    set_up(settings(), "dispatcher")
    Log("taskqueue.x", group=None).warning("100 %")
    assert capfd.readouterr().err.endswith(" WARNING dispatcher: 100 %\n")


def test_bound_context_is_added_and_the_first_log_keeps_its_own(capfd):
    set_up(settings(), "consumer")
    log = Log("taskqueue.x", group="g")
    log.bind(worker=3).info("both")
    log.info("one")
    lines = capfd.readouterr().err.splitlines()
    assert lines[0].endswith("both [group=g worker=3]")
    assert lines[1].endswith("one [group=g]")


def test_a_level_below_the_configured_one_is_left_out(capfd):
    set_up(settings(level="warning"), "dispatcher")
    Log("taskqueue.x").info("quiet")
    assert capfd.readouterr().err == ""


def test_pika_is_silenced_because_the_broker_package_speaks_for_it(capfd):
    set_up(settings(level="debug"), "dispatcher")
    logging.getLogger("pika.adapters").error("Socket failed to connect")
    assert capfd.readouterr().err == ""


def test_one_record_is_one_line_whatever_it_holds(capfd):
    set_up(settings(), "worker")
    try:
        raise ValueError("two\nlines")
    except ValueError:
        Log("taskqueue.x").exception("a\r\nb\x1b[31m\u2028\ud800", workitem="x\ny")
    (line,) = capfd.readouterr().err.splitlines()
    assert r"worker: a\r\nb\x1b[31m\u2028\ud800\nTraceback (most recent call last):\n" in line
    assert line.endswith(r"ValueError: two\nlines [workitem=x\ny]")


def test_a_long_message_loses_its_middle(capfd):
    set_up(settings(), "worker")
    Log("taskqueue.x").info("%s", "ä" * 100_000 + "end", workitem="w" * 1000)
    line = capfd.readouterr().err
    assert len(line.encode()) < 8192 + 500
    assert "bytes left out" in line
    assert "end [workitem=www" in line


@pytest.mark.parametrize("text", ["ä" * 5000, "€" * 5000, "\0" * 5000])
def test_cutting_never_splits_a_character(text):
    assert "\ufffd" not in escape(text, 1001)


def test_json_lines_carry_the_same_as_an_object(capfd):
    set_up(settings(format="json"), "consumer")
    Log("taskqueue.x", group="g").bind(worker=2).error("two\nlines \udc80", workitem="w1")
    (line,) = capfd.readouterr().err.splitlines()
    record = json.loads(line)
    assert datetime.fromisoformat(record.pop("time")).tzinfo is not None
    assert record == {
        "level": "error",
        "process": "consumer",
        "group": "g",
        "worker": "2",
        "workitem": "w1",
        "message": "two\nlines \\udc80",
    }


def test_json_lines_keep_the_traceback_apart(capfd):
    set_up(settings(format="json"), "worker")
    try:
        raise ValueError("no")
    except ValueError:
        Log("taskqueue.x").exception("failed")
    record = json.loads(capfd.readouterr().err)
    assert record["message"] == "failed"
    assert record["traceback"].startswith("Traceback (most recent call last):\n")
    assert record["traceback"].endswith("ValueError: no")


@pytest.mark.parametrize(("format", "expected"), [("text", "<4>pool: hot\n"), ("json", '<4>{"time": ')])
def test_lines_for_the_journal_begin_with_a_priority(capfd, monkeypatch, format, expected):  # noqa: A002
    status = os.fstat(2)
    monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
    set_up(settings(format=format), "pool")
    Log("taskqueue.x").warning("hot")
    assert capfd.readouterr().err.startswith(expected)


def test_an_inherited_journal_variable_of_another_stream_is_not_believed(capfd, monkeypatch):
    monkeypatch.setenv("JOURNAL_STREAM", "1:1")
    set_up(settings(), "pool")
    Log("taskqueue.x").warning("hot")
    assert capfd.readouterr().err.startswith("20")


def test_a_log_file_is_readable_by_its_owner_and_group_only(tmp_path):
    path = tmp_path / "taskqueue.log"
    before = os.umask(0o022)
    try:
        set_up(settings(destination=path), "dispatcher")
    finally:
        os.umask(before)
    Log("taskqueue.x").info("grüße")
    assert path.read_text(encoding="utf-8").endswith("INFO dispatcher: grüße\n")
    assert path.stat().st_mode & 0o777 == 0o640


def test_a_log_file_is_opened_again_after_it_was_rotated(tmp_path):
    path = tmp_path / "taskqueue.log"
    set_up(settings(destination=path), "dispatcher")
    Log("taskqueue.x").info("one")
    path.rename(tmp_path / "taskqueue.log.1")
    Log("taskqueue.x").info("two")
    assert path.read_text().endswith("two\n")
    assert (tmp_path / "taskqueue.log.1").read_text().endswith("one\n")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root could be led to the files of others")
@pytest.mark.parametrize("target", ["shadow", "nothing"])
def test_root_follows_no_link_to_its_log_file(tmp_path, target):
    shadow = tmp_path / "shadow"
    shadow.write_text("secret\n")
    path = tmp_path / "taskqueue.log"
    path.symlink_to(tmp_path / target)
    with pytest.raises(ConfigError, match=r"taskqueue\.log: Too many levels of symbolic links"):
        set_up(settings(destination=path), "dispatcher", "nobody")
    assert (shadow.read_text(), shadow.stat().st_uid) == ("secret\n", 0)
    assert sorted(tmp_path.iterdir()) == [shadow, path]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_root_gives_away_only_a_log_file_that_it_made(tmp_path):
    made, found = tmp_path / "made", tmp_path / "found"
    found.touch()
    for path in (made, found):
        set_up(settings(destination=path), "dispatcher", "nobody")
    assert (made.owner(), found.owner()) == ("nobody", "root")


def test_a_directory_that_goes_away_and_comes_back_costs_lines_but_no_exception(tmp_path, monkeypatch):
    monkeypatch.setattr(logging, "raiseExceptions", False)  # else logging reports the lost line on stderr
    directory = tmp_path / "log"
    directory.mkdir()
    set_up(settings(destination=directory / "x.log"), "dispatcher")
    directory.rename(tmp_path / "away")
    Log("taskqueue.x").info("lost")
    Log("taskqueue.x").info("lost, too")
    directory.mkdir()
    Log("taskqueue.x").info("written")
    assert (directory / "x.log").read_text().endswith("written\n")


def test_a_log_file_in_a_missing_directory_is_a_fault_of_one_line(tmp_path):
    path = tmp_path / "missing" / "x.log"
    with pytest.raises(ConfigError) as fault:
        set_up(settings(destination=path), "dispatcher")
    assert str(fault.value) == f"section [logging], option destination: {path}: No such file or directory"


def test_a_full_disk_costs_lines_but_no_exception_neither_now_nor_when_the_file_is_closed(tmp_path, capfd):
    set_up(settings(destination="/dev/full"), "dispatcher")
    Log("taskqueue.x").info("lost")
    set_up(settings(destination=tmp_path / "x.log"), "dispatcher")
    Log("taskqueue.x").info("written")
    assert (tmp_path / "x.log").read_text().endswith("dispatcher: written\n")
    assert capfd.readouterr().err == ""


def test_a_stderr_that_takes_nothing_costs_lines_but_no_exception(monkeypatch):
    monkeypatch.setattr(logs, "_STDERR", os.open("/dev/full", os.O_WRONLY))
    set_up(settings(), "dispatcher")
    Log("taskqueue.x").info("lost")
    logs.close()


def test_a_line_that_was_cut_off_by_a_full_disk_is_ended_and_the_lost_ones_are_counted(small_disk):
    path = small_disk / "x.log"
    set_up(settings(destination=path), "dispatcher")
    log = Log("taskqueue.x")
    (small_disk / "ballast").write_bytes(bytes(2 * PAGE))
    for _ in range(SMALL // 1000):
        log.info("-" * 1000)
    (small_disk / "ballast").unlink()
    log.info("again")
    *_, cut_off, lost, again = path.read_text().splitlines()
    assert re.fullmatch(r"[-\d]+ .*", cut_off)
    assert not cut_off.endswith("-" * 1000)
    number = int(re.search(r"(\d+) log lines could not be written and are lost \(No space left", lost)[1])
    assert number == SMALL // 1000 - path.read_text().count("-" * 1000 + "\n")
    assert again.endswith("dispatcher: again")


@pytest.mark.parametrize("what", ["a FIFO or a socket", "a FIFO", "a directory"])
def test_what_is_no_file_is_a_fault_and_keeps_nobody_waiting(tmp_path, what):
    path = tmp_path / "x.log"
    path.mkdir() if what == "a directory" else os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK) if what == "a FIFO" else None
    with pytest.raises(ConfigError) as fault:
        set_up(settings(destination=path), "dispatcher")
    found = "Is a directory" if what == "a directory" else f"expected a file, found {what}"
    assert str(fault.value) == f"section [logging], option destination: {path}: {found}"
    if reader is not None:
        os.close(reader)


def test_a_file_that_becomes_a_fifo_is_written_on_under_its_old_name(tmp_path):
    path = tmp_path / "x.log"
    set_up(settings(destination=path), "dispatcher")
    path.rename(tmp_path / "old")
    os.mkfifo(path)
    Log("taskqueue.x").info("here")
    assert (tmp_path / "old").read_text().endswith("here\n")


@pytest.fixture
def no_syslog(tmp_path, monkeypatch):
    """A machine without syslog, whose directories for logs are under `tmp_path`."""
    monkeypatch.setattr(logs, "SYSLOG_SOCKET", str(tmp_path / "log"))
    monkeypatch.setattr(logs, "ROOTS_LOG", str(tmp_path / "root" / "taskqueue.log"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    place = "root" if os.geteuid() == 0 else "taskqueue"
    return tmp_path / place / "taskqueue.log"


@pytest.mark.parametrize("wanted", ["stderr", "syslog"])
@pytest.mark.parametrize("stale", [False, True])
def test_without_a_syslog_a_daemon_in_the_background_logs_to_a_file(no_syslog, wanted, stale):
    if stale:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as gone:
            gone.bind(logs.SYSLOG_SOCKET)
    found = logs.reachable(settings(destination=wanted), in_background=True)
    assert found.destination == str(no_syslog)
    assert not no_syslog.parent.exists()  # whoever only asks changes nothing
    set_up(found, "pool")
    Log("taskqueue.x").error("written")
    assert no_syslog.read_text().endswith("pool: written\n")
    assert logs.detour(settings(destination=wanted), in_background=True) == (
        f"no syslog listens at {logs.SYSLOG_SOCKET}: the log goes to {no_syslog}"
    )


def test_without_a_syslog_and_a_place_for_files_it_is_said_that_lines_are_lost(no_syslog, monkeypatch):
    (no_syslog.parents[1] / "file").touch()
    monkeypatch.setattr(logs, "ROOTS_LOG", str(no_syslog.parents[1] / "file" / "taskqueue.log"))
    monkeypatch.setenv("XDG_STATE_HOME", str(no_syslog.parents[1] / "file"))
    assert logs.reachable(settings(), in_background=True).destination == "syslog"
    assert "lost until one does; set destination" in logs.detour(settings(), in_background=True)


def test_without_a_syslog_a_daemon_in_the_foreground_logs_to_stderr(no_syslog):
    assert logs.reachable(settings(destination="syslog"), in_background=False).destination == "stderr"


def test_a_syslog_that_listens_is_used_and_nothing_is_said(no_syslog):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as syslog:
        syslog.bind(logs.SYSLOG_SOCKET)
        assert logs.reachable(settings(), in_background=True).destination == "syslog"
        assert logs.detour(settings(), in_background=True) == ""


def test_another_process_takes_the_log_over_under_its_own_name(tmp_path):
    path = tmp_path / "x.log"
    set_up(settings(destination=path), "workerpool")
    (descriptor,) = logs.take_over("consumer")
    assert os.path.samestat(os.fstat(descriptor), path.stat())
    Log("taskqueue.x").info("mine")
    assert path.read_text().endswith("INFO consumer: mine\n")


def test_syslog_gets_facility_daemon_priority_and_process_id(tmp_path, monkeypatch):
    path = tmp_path / "log"
    monkeypatch.setattr(logs, "SYSLOG_SOCKET", str(path))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as syslog:
        syslog.bind(str(path))
        set_up(settings(destination="syslog"), "pool")
        Log("taskqueue.x").error("broken", group="g")
        facility_daemon, priority_error = 3 << 3, 3
        expected = f"<{facility_daemon | priority_error}>taskqueue-pool[{os.getpid()}]: broken [group=g]"
        assert syslog.recv(1000).decode() == expected


def test_lines_are_lost_while_there_is_no_syslog_and_arrive_when_it_is_there(tmp_path, monkeypatch):
    monkeypatch.setattr(logging, "raiseExceptions", False)  # else logging reports the lost line on stderr
    monkeypatch.setattr(logs, "SYSLOG_SOCKET", str(tmp_path / "log"))
    set_up(settings(destination="syslog"), "pool")
    Log("taskqueue.x").error("lost")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as syslog:
        syslog.bind(str(tmp_path / "log"))
        Log("taskqueue.x").error("written")
        assert syslog.recv(1000).decode().endswith(": written")


def test_setting_up_again_replaces_the_destination(tmp_path, capfd):
    set_up(settings(), "dispatcher")
    set_up(settings(destination=tmp_path / "x.log"), "dispatcher")
    Log("taskqueue.x").info("once")
    assert capfd.readouterr().err == ""
    assert len((tmp_path / "x.log").read_text().splitlines()) == 1
