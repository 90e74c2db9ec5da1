"""Starts a command as some parent would leave it: launch.py SURROUNDINGS... -- COMMAND..."""

import fcntl
import os
import pty
import resource
import signal
import sys
import tempfile
import termios
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

NAMELESS = 54321  # a user id that no password file has
HUGE = 1_000_000_000  # open files, as some container engines allow

#: A limit as high as that, for Python code, on a machine where it cannot be set.
_PRETEND = f"""
import os, resource
limits = {{resource.RLIMIT_NOFILE: ({HUGE}, {HUGE})}}
real_get, real_set, real_sysconf = resource.getrlimit, resource.setrlimit, os.sysconf
def setrlimit(which, wanted):
    if which in limits:
        limits[which] = wanted
        wanted = [min(each, most) for each, most in zip(wanted, real_get(which))]
    real_set(which, wanted)
resource.getrlimit = lambda which: limits.get(which) or real_get(which)
resource.setrlimit = setrlimit
os.sysconf = lambda name: {HUGE} if name == "SC_OPEN_MAX" else real_sysconf(name)
"""


def block_signals() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())


def close(*descriptors: int) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def lead(descriptor: int, path: str) -> None:
    os.dup2(os.open(path, os.O_WRONLY), descriptor)


def lead_into_a_broken_pipe(descriptor: int) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    os.dup2(writer, descriptor)


def forget_home() -> None:
    for name in ("HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME"):
        os.environ.pop(name, None)


def become_nameless() -> None:
    os.setgroups([])
    os.setresgid(NAMELESS, NAMELESS, NAMELESS)
    os.setresuid(NAMELESS, NAMELESS, NAMELESS)
    forget_home()


@contextmanager
def new_directory() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="tq-cwd-"))
    os.chdir(path)
    yield path
    path.rmdir()


def be_in_a_removed_directory() -> None:
    with new_directory():
        pass


def be_in_an_unreadable_directory() -> None:
    path = Path(tempfile.gettempdir(), "tq-unreadable", "inner")
    path.mkdir(parents=True, exist_ok=True)
    os.chdir(path)
    path.chmod(0)
    path.parent.chmod(0)
    become_nameless()


def speak(**variables: str) -> None:
    os.environ.update(variables)


def empty_environment() -> None:
    """Leave only what says where the test's things are."""
    for name in set(os.environ) - {"PYTHONPATH", "TASKQUEUE_AMQP", "TASKQUEUE_TEST_ID"}:
        del os.environ[name]


def allow_open_files(number: int) -> None:
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (number, number))
    except (ValueError, PermissionError):  # to raise it is for the mightiest
        directory = Path(tempfile.gettempdir(), "tq-pretend")
        directory.mkdir(exist_ok=True)
        (directory / "sitecustomize.py").write_text(_PRETEND)
        os.environ["PYTHONPATH"] = f"{directory}:{os.environ.get('PYTHONPATH', '')}"
    resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))  # a set of so many numbers has no room


def take_a_terminal() -> None:
    master, slave = pty.openpty()
    os.set_inheritable(master, True)  # else the terminal hangs up
    if os.getsid(0) != os.getpid():
        os.setsid()
    fcntl.ioctl(slave, termios.TIOCSCTTY, 0)


SURROUNDINGS: dict[str, Callable[[], object]] = {
    "plain": lambda: None,
    "signals blocked": block_signals,
    "SIGCHLD ignored": partial(signal.signal, signal.SIGCHLD, signal.SIG_IGN),
    "SIGTERM and SIGALRM ignored": lambda: [
        signal.signal(number, signal.SIG_IGN) for number in (signal.SIGTERM, signal.SIGALRM)
    ],
    "SIGPIPE ignored": partial(signal.signal, signal.SIGPIPE, signal.SIG_IGN),
    "SIGPIPE by default": partial(signal.signal, signal.SIGPIPE, signal.SIG_DFL),
    "0 closed": partial(close, 0),
    "1 closed": partial(close, 1),
    "2 closed": partial(close, 2),
    "0 and 1 closed": partial(close, 0, 1),
    "0 and 2 closed": partial(close, 0, 2),
    "1 and 2 closed": partial(close, 1, 2),
    "0, 1 and 2 closed": partial(close, 0, 1, 2),
    "stdout full": partial(lead, 1, "/dev/full"),
    "stderr full": partial(lead, 2, "/dev/full"),
    "stdout a broken pipe": partial(lead_into_a_broken_pipe, 1),
    "stderr a broken pipe": partial(lead_into_a_broken_pipe, 2),
    "no HOME": forget_home,
    "a user without a name": become_nameless,
    "a removed directory": be_in_a_removed_directory,
    "an unreadable directory": be_in_an_unreadable_directory,
    "LC_ALL=C": partial(speak, LC_ALL="C"),
    "ASCII": partial(speak, LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0", PYTHONIOENCODING="ascii"),
    "Latin-1": partial(speak, PYTHONIOENCODING="latin-1"),
    "no environment": empty_environment,
    "64 open files": partial(allow_open_files, 64),
    "a thousand million open files": partial(allow_open_files, HUGE),
    "nice 19": partial(os.nice, 19),
    "a terminal": take_a_terminal,
    "no terminal": lambda: os.getsid(0) == os.getpid() or os.setsid(),
}


#: All of them in few, for commands that take seconds.
MIXTURES = [
    ("signals blocked", "SIGCHLD ignored", "SIGTERM and SIGALRM ignored", "no terminal"),
    ("no HOME", "a removed directory", "0, 1 and 2 closed"),
    ("ASCII", "1 closed"),
    ("stdout full", "stderr full", "LC_ALL=C"),
    ("SIGPIPE by default", "stdout a broken pipe", "stderr a broken pipe"),
    ("nice 19", "Latin-1", "an unreadable directory"),
    ("no environment", "64 open files", "a terminal"),
    ("a thousand million open files", "0 and 2 closed"),
]

if __name__ == "__main__":
    end = sys.argv.index("--")
    for name in sys.argv[1:end]:
        SURROUNDINGS[name]()
    os.execvp(sys.argv[end + 1], sys.argv[end + 1 :])
