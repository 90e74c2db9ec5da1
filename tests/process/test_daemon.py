"""Real forks and real signals; what detaches is a small script in a process of its own."""

import fcntl
import os
import signal
import socket
import stat
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from taskqueue.errors import AlreadyRunning, ConfigError, ExitStatus
from taskqueue.process.daemon import PidFile, Signals, foreground, notify


def until(condition, timeout=10.0):
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.005)
    return value


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):  # the latter where it ends while it is read
        return False


def start(body, *arguments, **options):
    """Run a script that detaches, until the process that was started has ended."""
    imports = "from taskqueue.process.daemon import *\nfrom taskqueue.errors import *\n"
    script = "import os, signal, sys, time\n" + imports
    command = [sys.executable, "-c", script + textwrap.dedent(body), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=20, check=False, **options)


WAITING_DAEMON = """
with detach(sys.argv[1]) as readiness, Signals((signal.SIGTERM,)) as signals:
    readiness.ready()
    signals.wait()
"""


@pytest.fixture
def pidfile(tmp_path):
    path = tmp_path / "daemon.pid"
    yield path
    if path.exists() and (pid := path.read_text().strip()) and alive(pid):
        os.kill(int(pid), signal.SIGKILL)


def test_the_starting_process_ends_with_0_once_the_daemon_is_ready(pidfile):
    started = start(WAITING_DAEMON, pidfile)
    assert (started.returncode, started.stdout, started.stderr) == (0, "", "")
    assert alive(int(pidfile.read_text()))


def test_a_daemon_has_left_session_directory_and_terminal_behind(pidfile):
    start(WAITING_DAEMON, pidfile)
    process = Path("/proc") / pidfile.read_text().strip()
    assert os.getsid(int(process.name)) != os.getsid(0)
    assert (process / "cwd").readlink() == Path("/")
    assert {(process / "fd" / number).readlink() for number in "012"} == {Path("/dev/null")}
    assert "Umask:\t0027" in (process / "status").read_text()


def test_a_daemon_that_is_terminated_removes_its_pid_file(pidfile):
    start(WAITING_DAEMON, pidfile)
    pid = int(pidfile.read_text())
    os.kill(pid, signal.SIGTERM)
    until(lambda: not alive(pid))
    assert not pidfile.exists()


def test_a_relative_pid_file_is_where_the_command_was_given(tmp_path):
    assert start(WAITING_DAEMON, "here.pid", cwd=tmp_path).returncode == 0
    os.kill(int((tmp_path / "here.pid").read_text()), signal.SIGTERM)
    until(lambda: not (tmp_path / "here.pid").exists())


def test_a_second_daemon_is_refused_with_the_process_id_of_the_first(pidfile):
    start(WAITING_DAEMON, pidfile)
    second = start(WAITING_DAEMON, pidfile)
    assert second.returncode == ExitStatus.LOCKED
    assert second.stderr == f"already running: process {pidfile.read_text().strip()} holds {pidfile}\n"


def test_a_daemon_starts_at_once_after_kill_9_although_a_child_of_the_old_one_lives(pidfile, tmp_path):
    leaves_a_child = """
        with detach(sys.argv[1]) as readiness:
            if child := os.fork():
                open(sys.argv[2], "w").write(str(child))
                readiness.ready()
            signal.pause()
    """
    start(leaves_a_child, pidfile, tmp_path / "child")
    child, old = int((tmp_path / "child").read_text()), int(pidfile.read_text())
    try:
        os.kill(old, signal.SIGKILL)
        until(lambda: not alive(old))
        assert start(WAITING_DAEMON, pidfile).returncode == 0
        assert int(pidfile.read_text()) != old
        assert alive(child)
    finally:
        os.kill(child, signal.SIGKILL)


@pytest.mark.parametrize(
    ("failure", "status", "message"),
    [
        ("raise ConfigError(['one fault', 'another'])", 78, "one fault\nanother\n"),
        ("raise BrokerRefused('wrong password')", 77, "wrong password\n"),
        ("raise ValueError('a bug')", 70, "ValueError: a bug\n"),
        ("sys.exit(5)", 5, "ended with status 5 before it was ready\n"),
        ("readiness.failed(69, 'no broker')", 69, "no broker\n"),
        ("os._exit(0)", 70, "the daemon died before it was ready, see its log\n"),
        ("os.kill(os.getpid(), signal.SIGKILL)", 70, "the daemon died before it was ready, see its log\n"),
        ("readiness.failed(69, 'x' * 200_000)", 69, "x" * 65532 + "\n"),
    ],
)
def test_a_daemon_that_fails_before_it_is_ready_says_why_where_it_was_started(
    pidfile, failure, status, message
):
    started = start(f"with detach(sys.argv[1]) as readiness: {failure}", pidfile)
    assert (started.returncode, started.stderr) == (status, message)


def test_an_error_after_readiness_is_no_longer_the_starters_concern(pidfile):
    started = start(
        "with detach(sys.argv[1]) as readiness: readiness.ready(); raise ValueError('later')", pidfile
    )
    assert (started.returncode, started.stderr) == (0, "")


def test_what_is_buffered_before_detaching_is_printed_once(pidfile):
    body = "print('starting')\nwith detach(sys.argv[1]) as readiness: readiness.ready(); print('lost')"
    assert start(body, pidfile).stdout == "starting\n"


def test_only_the_named_files_stay_open_in_a_daemon(pidfile, tmp_path):
    keep, other = os.open(tmp_path, os.O_RDONLY), os.open(tmp_path, os.O_RDONLY)
    body = """
        with detach(sys.argv[1], [int(sys.argv[2])]) as readiness:
            os.fstat(int(sys.argv[2]))
            try:
                os.fstat(int(sys.argv[3]))
            except OSError:
                readiness.ready()
    """
    try:
        assert start(body, pidfile, keep, other, pass_fds=[keep, other]).returncode == 0
    finally:
        os.close(keep)
        os.close(other)


def test_the_library_that_detaches_is_imported_only_to_detach():
    started = start("sys.exit('daemon' in sys.modules)")
    assert started.returncode == 0, started.stderr


def test_a_pid_file_holds_the_id_can_be_opened_by_its_owner_only_and_goes_with_its_holder(tmp_path):
    path = tmp_path / "x.pid"
    path.write_text("a longer text that was left behind")
    path.chmod(0o600)
    with PidFile(str(path)):
        assert path.read_text() == f"{os.getpid()}\n"
        assert path.stat().st_mode & 0o777 == 0o600
    assert not path.exists()


def test_what_a_killed_process_said_it_does_goes_when_the_next_one_takes_the_pid_file(tmp_path):
    said = tmp_path / "pid.status"
    said.write_text("takes work\n")
    with PidFile(str(tmp_path / "pid")):
        assert not said.exists()


def test_a_pid_file_that_another_process_holds_is_left_alone(tmp_path):
    path = tmp_path / "x.pid"
    imports = "from taskqueue.process.daemon import PidFile\n"
    script = f"{imports}with PidFile({str(path)!r}): print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        holder.stdout.readline()
        with pytest.raises(AlreadyRunning, match=f"process {holder.pid} holds"), PidFile(str(path)):
            pass
        assert path.read_text() == f"{holder.pid}\n"
        holder.communicate(b"\n")
    with PidFile(str(path)):
        pass


@pytest.mark.parametrize("name", ["missing/x.pid", "link"])
def test_a_pid_file_that_cannot_be_written_is_a_fault_of_one_line(tmp_path, name):
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match=f"^pid file .*/{name}: [A-Z].*$"), PidFile(str(tmp_path / name)):
        pass
    assert not (tmp_path / "elsewhere").exists()


def test_in_the_foreground_the_pid_file_is_held_and_the_service_manager_told(tmp_path, service_manager):
    with foreground(str(tmp_path / "x.pid")) as readiness:
        assert (tmp_path / "x.pid").exists()
        readiness.ready()
    assert service_manager.recv(100) == b"READY=1"
    assert not (tmp_path / "x.pid").exists()


@pytest.fixture(params=["path", "abstract"])
def service_manager(request, tmp_path, monkeypatch):
    name = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.settimeout(5)
        manager.bind(name if request.param == "path" else "\0" + name)
        monkeypatch.setenv("NOTIFY_SOCKET", name if request.param == "path" else "@" + name)
        yield manager


def test_the_service_manager_gets_the_state(service_manager):
    notify("STATUS=drained\nSTOPPING=1")
    assert service_manager.recv(100) == b"STATUS=drained\nSTOPPING=1"


@pytest.mark.parametrize("address", [None, "", "/nowhere/notify", "@nobody", "x" * 500])
def test_without_a_service_manager_notifying_does_nothing(monkeypatch, address):
    if address is None:
        monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    else:
        monkeypatch.setenv("NOTIFY_SOCKET", address)
    notify("READY=1")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user_cannot_lock_a_pid_file(tmp_path):
    path = tmp_path / "x.pid"
    path.touch(0o644)  # left behind by an older version
    with PidFile(str(path)):
        path.parent.chmod(0o755)
        lock = f"import fcntl; fcntl.flock(open({str(path)!r}), fcntl.LOCK_SH)"
        nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all"]
        done = subprocess.run([*nobody, "python3", "-c", lock], capture_output=True, text=True, check=False)
        assert "Permission denied" in done.stderr


@pytest.mark.parametrize("kind", ["FIFO", "device", "directory", "link"])
def test_a_pid_file_that_is_none_is_a_fault_and_left_as_it_is(tmp_path, kind):
    path = tmp_path / "x.pid"
    match kind:
        case "FIFO":
            os.mkfifo(path, 0o640)
        case "device":
            if os.geteuid() != 0:
                pytest.skip("only root can make a device")
            os.mknod(path, stat.S_IFCHR | 0o640, os.makedev(1, 3))
        case "directory":
            path.mkdir(0o750)
        case "link":
            path.symlink_to(tmp_path / "target")
    before = path.lstat()
    with pytest.raises(ConfigError, match=f"pid file {path}: "), PidFile(str(path)):
        pass
    assert (path.lstat().st_mode, path.lstat().st_ino) == (before.st_mode, before.st_ino)
    assert not (tmp_path / "target").exists()


def test_no_link_that_others_have_put_beside_a_pid_file_is_followed(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious\n")
    with PidFile(str(tmp_path / "x.pid")) as file:
        for name in ("x.new", "x.status"):
            (tmp_path / name).symlink_to(victim)
        file.tell("works")
        assert (tmp_path / "x.status").read_text() == "works\n"
        assert (tmp_path / "x.status").stat().st_mode & 0o777 == 0o644
    assert (victim.read_text(), victim.stat().st_mode & 0o777) == ("precious\n", 0o644)


def test_signals_are_noted_in_order_and_each_sigterm_counts():
    sent = [signal.SIGTERM, signal.SIGHUP, signal.SIGTERM]
    with Signals((signal.SIGTERM, signal.SIGHUP)) as signals:
        for number in sent:
            os.kill(os.getpid(), number)
        assert signals.pending() == sent
        assert signals.pending() == []


def test_a_signal_without_a_name_that_somebody_else_handles_disturbs_nobody():
    nameless = signal.SIGRTMIN + 3
    before = signal.signal(nameless, lambda _number, _frame: None)
    try:
        with Signals((signal.SIGTERM, signal.SIGHUP)) as signals:
            os.kill(os.getpid(), nameless)
            os.kill(os.getpid(), signal.SIGHUP)
            assert signals.pending() == [signal.SIGHUP]
    finally:
        signal.signal(nameless, before)


def test_three_hundred_wishes_for_a_reload_are_one():
    with Signals((signal.SIGTERM, signal.SIGHUP)) as signals:
        for number in [*[signal.SIGHUP] * 300, signal.SIGTERM, signal.SIGHUP]:
            os.kill(os.getpid(), number)
        assert signals.pending() == [signal.SIGHUP, signal.SIGTERM]
        os.kill(os.getpid(), signal.SIGHUP)
        assert signals.pending() == [signal.SIGHUP]


def test_waiting_ends_when_a_child_does():
    with Signals((signal.SIGCHLD,)) as signals, subprocess.Popen(["true"]):
        assert signals.wait(10) == [signal.SIGCHLD]


def test_waiting_without_a_signal_ends_at_the_timeout():
    with Signals((signal.SIGTERM,)) as signals:
        begin = time.monotonic()
        assert signals.wait(0.02) == []
        assert time.monotonic() - begin >= 0.02


def test_afterwards_the_old_handlers_are_back():
    before = signal.getsignal(signal.SIGINT)
    with Signals((signal.SIGINT,)):
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before
    assert signal.set_wakeup_fd(-1) == -1


def test_the_pipe_of_the_signals_is_not_inherited_by_programs():
    with Signals((signal.SIGTERM,)) as signals:
        assert fcntl.fcntl(signals.fileno(), fcntl.F_GETFD) & fcntl.FD_CLOEXEC
