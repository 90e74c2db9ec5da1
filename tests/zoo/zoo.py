"""The zoo: plugins that behave well, badly and worse.

Each workitem's body says how; none of them waits for a fixed time.
"""

import ctypes
import os
import resource
import signal
import socket
import stat
import sys
import time
from pathlib import Path
from typing import ClassVar

from taskqueue import Reject, Retry, TaskTimeout
from taskqueue.worker.base import BaseWorker
from taskqueue.worker.frames import Outcome, ProgressFrame, Service, Verdict, retiring

POLL_DELAY = 0.01


class Animal(BaseWorker):
    """Notes what it does in the file that its settings name, so that tests see runs without a result."""

    def note(self, word: str) -> None:
        """Append "<workitem> <attempt> <pid> <word>"; a line of that length is written whole."""
        line = f"{self.workitem.id} {self.workitem.attempt} {os.getpid()} {word}\n"
        journal = os.open(self.settings["journal"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        os.write(journal, line.encode())
        os.close(journal)


def wait_for(path):
    """Wait until a file exists."""
    while not Path(path).exists():
        time.sleep(POLL_DELAY)


class Good(Animal):
    """Returns its body; takes as long as "seconds" says."""

    def handle_task(self, body):
        self.note("begin")
        if isinstance(body, dict):
            time.sleep(body.get("seconds", 0))
        self.note("end")
        return {"echo": body, "pid": os.getpid(), "attempt": self.workitem.attempt}


class Gated(Animal):
    """Runs until the file exists that its body names; leaves once that exists which its settings name.

    If its body names a file "middle", it reports and prints its progress once that exists.
    """

    def handle_task(self, body):
        self.note("begin")
        if "middle" in body:
            wait_for(body["middle"])
            self.progress(0.5, "half way")
            print("a line of output")
        wait_for(body["gate"])
        self.note("end")
        return {"pid": os.getpid(), "attempt": self.workitem.attempt}

    def teardown(self):
        if "exit_gate" in self.settings:
            self.log.info("the gated one wants to leave")
            wait_for(self.settings["exit_gate"])
        self.log.info("the gated one is torn down")


class Hesitant(Gated):
    """Comes only when that exists which its settings name; returns the headers of its workitem."""

    def setup(self):
        self.log.info("the hesitant one is at the gate")
        wait_for(self.settings["enter_gate"])

    def handle_task(self, body):
        super().handle_task(body)
        return self.workitem.headers


class Raising(Animal):
    """Raises what its body names."""

    def handle_task(self, body):
        raise {"ValueError": ValueError, "KeyboardInterrupt": KeyboardInterrupt}[body["error"]](
            "as it was asked to"
        )


class Stubborn(Animal):
    """Raises what its body names until it has been run `times` times."""

    def handle_task(self, body):
        attempt = self.workitem.attempt
        self.note("begin")
        if attempt <= body["times"]:
            if body["error"] == "Retry":
                raise Retry(f"not yet {attempt}", delay=body.get("delay"))
            raise {"ValueError": ValueError, "Reject": Reject}[body["error"]](f"not yet {attempt}")
        return {"attempt": attempt, "headers": sorted(self.workitem.headers)}


class Slow(Animal):
    """Runs until the file exists that its body names; notes a timeout, and heeds it or not."""

    def handle_task(self, body):
        self.note("begin")
        while True:
            try:  # around all of the loop inside: the exception may come at any of its steps
                return self.wait(Path(body["gate"]))
            except TaskTimeout:
                self.note("timeout")
                if not body.get("deaf"):
                    raise

    def wait(self, gate):
        while not gate.exists():
            time.sleep(POLL_DELAY)
        return "in time"


class Busy(Animal):
    """Computes, and computes."""

    def handle_task(self, _body):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        while True:
            pass


class Growing(Animal):
    """Keeps as many MiB as its body says."""

    def setup(self):
        self.kept = []

    def handle_task(self, body):
        self.kept.append(b"x" * (body["mib"] * 1024 * 1024))
        return os.getpid()


class Exiting(Animal):
    """Ends its process, in order or not."""

    def handle_task(self, body):
        self.note("begin")
        if body["how"] == "sys.exit":
            sys.exit(body["status"])
        os._exit(body["status"])


class Segfaulting(Animal):
    """Reads from address 0."""

    def handle_task(self, _body):
        self.note("begin")
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        ctypes.string_at(0)


def daemonize_as_unix_does():
    """Return the pid of a process in the group of one that has ended, which nobody waits for here."""
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.setsid()
        if os.fork():
            os._exit(0)
        os.write(writer, str(os.getpid()).encode())
        while True:
            signal.pause()
    return int(os.read(reader, 20))


def daemonize():
    """Return the pid of a process that has a session and a group of its own, and this one as no parent."""
    reader, writer = os.pipe()
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return int(os.read(reader, 20))
    os.setsid()
    if os.fork():
        os._exit(0)
    os.setsid()
    os.write(writer, str(os.getpid()).encode())
    while True:
        signal.pause()


class Forking(Animal):
    """Forks; the child comes back from handle_task, or stays, or becomes a daemon."""

    def handle_task(self, body):
        if body["child"] == "daemon":
            return {"parent": os.getpid(), "child": daemonize()}
        if body["child"] == "classic daemon":
            return {"parent": os.getpid(), "child": daemonize_as_unix_does()}
        child = os.fork()
        if child == 0:
            if body["child"] == "returns":
                return "the child's result, which nobody may see"
            while True:
                signal.pause()
        if body["child"] == "returns":
            os.waitpid(child, 0)
        return {"parent": os.getpid(), "child": child}


class Flooding(Animal):
    """Writes many lines, or one that never ends."""

    def handle_task(self, body):
        if "lines" in body:
            for number in range(body["lines"]):
                sys.stdout.write(f"flood {number}\n")
        if "bytes" in body:
            sys.stderr.write("~" * body["bytes"])
        return "afloat"


class Talking(Animal):
    """Says who it is."""

    def handle_task(self, _body):
        print("I am", self.workitem.id)
        self.log.info("and still am %s", self.workitem.id)


class Hungry(Animal):
    """Eats memory until there is no more, under a limit of its own if its body has one."""

    def handle_task(self, body):
        if "limit" in body:
            resource.setrlimit(resource.RLIMIT_AS, (body["limit"], body["limit"]))
        eaten = []
        while True:
            eaten.append(bytearray(16 * 1024 * 1024))


class Inexpressible(Animal):
    """Returns what JSON cannot express."""

    def handle_task(self, body):
        circle = []
        circle.append(circle)
        return {"set": {1, 2}, "object": object(), "nan": float("nan"), "circle": circle}[body["kind"]]


class Huge(Animal):
    """Returns as many bytes as it is asked for."""

    def handle_task(self, body):
        return b"x" * body["bytes"]


class Unready(Animal):
    """Fails before its first workitem."""

    def setup(self):
        raise ConnectionRefusedError("its database is down")


class Stuck(Animal):
    """Never comes to its first workitem."""

    def setup(self):
        print("stuck")
        while True:
            signal.pause()


class Escaping(Animal):
    """Tries to get at a terminal and out of its process group, returns what worked, or stays."""

    def handle_task(self, body):
        ways = {
            "terminal": lambda: os.open("/dev/tty", os.O_RDWR),
            "session": os.setsid,
            "group": lambda: os.setpgid(0, os.getpgid(os.getppid())),
        }
        worked = [name for name, way in ways.items() if works(way)]
        self.note("begin")
        while body == "stay":
            signal.pause()
        return worked


class Babbling(Animal):
    """Writes garbage into the socket that leads to its consumer."""

    def handle_task(self, body):
        self.note("begin")
        garbage = {
            "noise": b"\xff" * 100_000,
            "an endless frame": b"\x03\xff\xff\xff\xff",
            "a forged outcome": b"\x03\x00\x00\x00\x26" + bytes(8) + b"\x01" + bytes(29),
            "ready again": b"\x01\x00\x00\x00\x00",
            "no time": Outcome(1, Verdict.RETRY, *[float("nan")] * 3, "", "", b"").encode(),
            "an endless delay": Outcome(1, Verdict.RETRY, 0, 0, float("inf"), "", "", b"").encode(),
            "an endless error": Outcome(1, Verdict.FAILED, 0, 0, -1, "", "\0" * 12_000_000, b"").encode(),
            "endless progress": ProgressFrame(1, 0.5, "\0" * 12_000_000).encode(),
        }[body["garbage"]]
        for descriptor in range(3, 100):
            if is_socket(descriptor):
                os.write(descriptor, garbage)
        signal.pause()


class Departing(Animal):
    """Closes the sockets that lead to its consumer, and lives on; or closes all files, and returns."""

    opened: ClassVar[list[object]] = []

    def handle_task(self, body):
        if "first" in body:
            os.closerange(body["first"], 100)
            for _ in range(50):
                if body["opens"] == "files":
                    os.open("/dev/null", os.O_RDWR)
                elif body["opens"] == "sockets":
                    self.opened.append(socket.socketpair())
            return "done"
        for descriptor in filter(is_socket, range(3, 100)):
            os.close(descriptor)
        return signal.pause()


class Usurping(Animal):
    """Names a worker type that is another plugin's, and would answer in its place."""

    services = (Service("usurping"), Service("good"))

    def handle_task(self, _body):
        return "usurped"


class Swarming(Animal):
    """Names more worker types than a connection has channels."""

    services = tuple(Service(f"swarming{number}") for number in range(3000))


class Weary(Animal):
    """Retires before it has done anything, and ends in good order."""

    def setup(self):
        ends = [descriptor for descriptor in range(3, 100) if is_socket(descriptor)]
        for descriptor in ends:
            os.write(descriptor, retiring())
        while os.read(ends[0], 1000):
            pass
        os._exit(0)


class Undressed(Animal):
    """Replaces its standard streams by what is none."""

    def handle_task(self, body):
        sys.stdout = sys.stderr = {"None": None, "an object": object()}[body]
        return "in spite of that"


class Whoami(Animal):
    """Returns what a process can say about itself."""

    def handle_task(self, _body):
        return {
            "pid": os.getpid(),
            "uids": os.getresuid(),
            "gids": os.getresgid(),
            "groups": os.getgroups(),
            "environment": dict(os.environ),
            "descriptors": {number: describe(number) for number in range(100) if describe(number)},
            "arguments": sys.orig_argv,
            "directory": str(Path.cwd()),
            "settings": dict(self.settings),
            "open_files": resource.getrlimit(resource.RLIMIT_NOFILE),
            "nice": os.getpriority(os.PRIO_PROCESS, 0),
            "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
        }


class Confined(Animal):
    """Tries to get out of its isolation; returns what it sees and what worked."""

    def handle_task(self, body):
        written = [path for path in body["paths"] if works(lambda path=path: Path(path).write_text("x"))]
        return {
            "written": written,
            "temporary": {path: names_in(path) for path in body["temporary"]},
            "interfaces": [name for _, name in socket.if_nameindex()],
            "undone": [name for name, way in self.ways_out() if works(way)],
            "devices": works(lambda: Path("/dev/null").write_text("x")),
        }

    def ways_out(self):
        libc = ctypes.CDLL(None, use_errno=True)

        def call(function, *arguments):
            if function(*arguments) != 0:
                raise OSError(ctypes.get_errno(), "refused")

        yield "umount", lambda: call(libc.umount2, b"/tmp", 2)  # MNT_DETACH
        yield "remount", lambda: call(libc.mount, None, b"/", None, 32 | 4096, None)  # MS_REMOUNT, MS_BIND
        yield "namespace", lambda: call(libc.unshare, 0x00020000)  # CLONE_NEWNS
        yield "root", lambda: os.setuid(0)


def names_in(path):
    return [each.name for each in Path(path).iterdir()]


def impostor():
    """Make something that is no worker."""
    return "not a worker"


def works(way):
    """Tell whether the kernel lets us."""
    try:
        way()
    except OSError:
        return False
    return True


def is_socket(descriptor):
    """Tell whether a file descriptor is open and a socket."""
    return describe(descriptor).startswith("socket")


def describe(descriptor):
    """Return what a file descriptor is, "" for one that is not open."""
    try:
        mode = os.fstat(descriptor).st_mode
    except OSError:
        return ""
    if not stat.S_ISSOCK(mode):
        return str(Path(f"/proc/self/fd/{descriptor}").readlink())
    with socket.socket(fileno=os.dup(descriptor)) as end:
        return f"socket {end.family.name}"
