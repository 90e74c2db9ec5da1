"""A worker's whole life, in a process of its own, at the other end of a socket pair.

The plugins are the classes below: what the child needs of this module, it has inherited.
"""

import os
import resource
import signal
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import ClassVar

import pytest
from support.distribution import install
from support.line import lines

from taskqueue import Reject, Retry
from taskqueue.amqp.properties import Properties
from taskqueue.errors import CallError, ExitStatus
from taskqueue.worker.base import BaseWorker
from taskqueue.worker.frames import Kind, Verdict
from taskqueue.worker.limits import Limits
from taskqueue.worker.process import WorkerSpec

NO_LIMITS = Limits()


class Echo(BaseWorker):
    def handle_task(self, body):
        return body


class Settled(BaseWorker):
    """Shows what a worker finds when it begins."""

    def setup(self):
        print("set up with", dict(self.settings))

    def teardown(self):
        print("torn down")

    def handle_task(self, _body):
        return [os.environ.get("TASKQUEUE_AMQP"), os.environ["KEPT"], str(Path.cwd()), os.umask(0)]


class Speaking(BaseWorker):
    def handle_task(self, body):
        print("printed", end="")
        self.log.info("logged %s", body)


class Curious(BaseWorker):
    def handle_task(self, _body):
        item = self.workitem
        return [item.id, item.worker_type, item.attempt, item.headers, item.properties.correlation_id]


class Picky(BaseWorker):
    ACCEPT: ClassVar[list[str]] = ["Text/*", "application/json"]

    def handle_task(self, body):
        return body


class Executing(BaseWorker):
    """Does what it is told."""

    def handle_task(self, body):
        return eval(body)


class Later(Retry):
    """Has a delay that nobody has checked."""

    def __init__(self, delay):
        super().__init__("later")
        self.delay = delay


class Asking(BaseWorker):
    """Raises what asks for another run, or for none."""

    WISHES: ClassVar[dict[str, Callable[[], Exception]]] = {
        "retry": Retry,
        "retry later": lambda: Retry("later", delay=2.5),
        "retry before": lambda: Retry("before", delay=-3),
        "retry soon": lambda: Retry("soon", delay="soon"),
        "retry never": lambda: Retry("never", delay=float("inf")),
        "retry in milliseconds": lambda: Retry("", delay=1_800_000_000_000),
        "retry in a day": lambda: Retry("", delay=timedelta(days=1)),
        "retry never, set later": lambda: Later(float("inf")),
        "retry in a day, set later": lambda: Later(timedelta(days=1)),
        "reject": lambda: Reject("no use"),
        "nothing": ValueError,
    }

    def handle_task(self, body):
        wish = self.WISHES[body]()
        raise wish


class Cramped(BaseWorker):
    """Leaves little room for more, and keeps what it was given."""

    def handle_task(self, body):
        self.kept = body  # else it would be given back before it is quoted, and make the room for that
        used = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 20_000_000,) * 2)
        raise ValueError


class NoHandler(BaseWorker):
    pass


class Forking(BaseWorker):
    def handle_task(self, body):
        if os.fork() == 0:
            if body == "raise":
                raise ValueError("in the child")
            return "from the child"
        os.wait()
        return "from the parent"


class SetUpRaises(BaseWorker):
    def setup(self):
        raise OSError("no database")


class SetUpExits(BaseWorker):
    def setup(self):
        sys.exit(0)


class TearDownRaises(Echo):
    def teardown(self):
        raise ValueError("in teardown")


class NotAWorker:
    @classmethod
    def factory(cls):
        return cls()


class Wrong(ValueError):
    def __str__(self):
        raise RuntimeError


class Indescribable(ValueError):
    def with_traceback(self, _traceback):
        raise RuntimeError

    @property
    def __cause__(self):
        raise RuntimeError


class Endless(CallError):
    code = float("nan")  # which JSON does not have


class Untidy(BaseWorker):
    """Leaves nothing as it was, and raises what it is told to; returns what it found."""

    def setup(self):
        os.chdir("/usr")
        os.umask(0o027)
        os.environ["SET_UP"] = "yes"

    def handle_task(self, body):
        print("this is heard")
        found = [
            str(Path.cwd()),
            os.umask(0),
            os.environ.get("SET_UP"),
            os.environ.get("LEFT"),
            "HOME" in os.environ,
        ]
        os.chdir("/tmp")
        os.environ["LEFT"] = "behind"
        os.environ["SET_UP"] = "no"
        del os.environ["HOME"]
        if body == "close":
            sys.stdout.close()
        sys.stdout, sys.stderr = None, object()
        if body == "raise":
            raise ValueError
        if body == "wait":
            signal.pause()
        return found


@pytest.fixture
def start(forked, tmp_path, monkeypatch):
    """Start a worker: start(class, user=..., limits=..., **settings)."""
    monkeypatch.syspath_prepend(tmp_path)
    with lines(forked) as open_line:

        def start(plugin, target="factory", user=None, limits=NO_LIMITS, **settings):
            name = plugin.__name__.lower()
            install(tmp_path, "trial", {name: f"{__name__}:{plugin.__name__}.{target}"})
            return open_line(WorkerSpec(f"{name}/1", name, user, settings, limits))

        yield start


@pytest.fixture
def ready(start):
    """Start a worker and wait until it is ready."""

    def ready(*arguments, **options):
        line = start(*arguments, **options)
        assert line.receive() == (Kind.READY, b"")
        return line

    return ready


# --- beginning and end ---


def test_a_worker_is_set_up_with_its_settings_before_it_is_ready_and_torn_down_at_the_end(ready):
    line = ready(Settled, path="/srv", colour="red")
    assert line.child.output() == "set up with {'path': '/srv', 'colour': 'red'}\n"
    assert line.hang_up() == ExitStatus.OK
    assert line.child.output().endswith("torn down\n")


def test_a_worker_sees_its_environment_without_the_brokers_address_and_is_at_the_root(ready, monkeypatch):
    monkeypatch.setenv("TASKQUEUE_AMQP", "amqp://guest:k1ngf1sher@a")
    monkeypatch.setenv("KEPT", "kept")
    assert ready(Settled).value("") == [None, "kept", "/", 0o022]


@pytest.mark.parametrize(
    ("plugin", "complaint"),
    [
        (SetUpRaises, "plugin 'setupraises' cannot be set up: OSError: no database"),
        (SetUpExits, "plugin 'setupexits' cannot be set up: SystemExit: 0"),
        (NotAWorker, "plugin 'notaworker' returned a NotAWorker, expected a BaseWorker"),
    ],
)
def test_a_plugin_that_cannot_be_set_up_ends_its_worker_with_a_line_and_a_status(start, plugin, complaint):
    line = start(plugin)
    assert line.child.wait() == ExitStatus.PLUGIN
    assert line.child.output().startswith(f"ERROR: cannot start: {complaint}\n")
    assert ("Traceback" in line.child.output()) == (plugin is not NotAWorker)
    assert line.connection.recv(100) == b""


def test_an_entry_point_that_cannot_be_called_ends_the_worker(start):
    line = start(BaseWorker, "__doc__")
    assert line.child.wait() == ExitStatus.PLUGIN
    assert "'baseworker' cannot be " in line.child.output()


def test_a_user_who_does_not_exist_ends_the_worker(start):
    line = start(Echo, user="no-such-user")
    assert line.child.wait() == ExitStatus.PRIVILEGES
    assert line.child.output() == "ERROR: cannot start: there is no Unix user 'no-such-user'\n"


def test_a_teardown_that_raises_is_no_clean_end(ready):
    line = ready(TearDownRaises)
    assert line.hang_up() != ExitStatus.OK
    assert "ValueError: in teardown" in line.child.output()


# --- workitems ---


def test_the_value_of_the_handler_is_the_result(ready):
    line = ready(Echo)
    assert line.value('{"a": [1, 2.5, null]}', content_type="application/json") == {"a": [1, 2.5, None]}
    assert line.value("null", content_type=None) is None
    text = line.perform("grüß")
    assert (text.verdict, text.content_type, text.body) == (
        Verdict.SUCCEEDED,
        "text/plain; charset=utf-8",
        "grüß".encode(),
    )
    data = line.perform(b"\xff\0", content_type="image/png")
    assert (data.content_type, data.body) == ("application/octet-stream", b"\xff\0")


def test_the_handler_knows_its_workitem(ready):
    properties = Properties(correlation_id="c").with_headers({"h": [1.5]})
    value = ready(Curious).value("", correlation_id="c", header_table=properties.header_table)
    assert value == ["id", "good", 1, {"h": [1.5]}, "c"]


def test_a_worker_performs_one_workitem_after_the_other(ready):
    line = ready(Echo)
    for number in range(50):
        line.send(str(number))
    outcomes = [line.outcome() for _ in range(50)]
    assert [outcome.number for outcome in outcomes] == list(range(1, 51))
    assert [outcome.body for outcome in outcomes] == [str(number).encode() for number in range(50)]
    assert line.hang_up() == ExitStatus.OK


def test_a_workitem_of_a_megabyte_passes(ready):
    assert ready(Echo).perform("x" * 1_000_000).body == b"x" * 1_000_000


def test_what_a_handler_prints_and_logs_is_there_before_its_outcome(ready):
    line = ready(Speaking)
    line.perform("this")
    assert "printed" in line.child.output()
    assert "INFO: logged this\n" in line.child.output()


# --- limits ---


def test_a_worker_that_has_done_enough_says_so_and_waits_to_be_dismissed(ready):
    line = ready(Settled, limits=Limits(max_tasks=2))
    line.perform("1")
    line.perform("2")
    assert line.receive() == (Kind.RETIRING, b"")
    line.send("too late")
    assert line.hang_up() == ExitStatus.OK
    assert line.connection.recv(100) == b""
    assert line.child.output().endswith("torn down\n")


@pytest.mark.parametrize(
    ("wish", "verdict", "delay"),
    [
        ("retry", Verdict.RETRY, -1.0),
        ("retry later", Verdict.RETRY, 2.5),
        ("retry before", Verdict.RETRY, 0.0),
        ("retry soon", Verdict.FAILED, -1.0),
        ("reject", Verdict.REJECTED, -1.0),
        ("nothing", Verdict.FAILED, -1.0),
    ],
)
def test_what_a_handler_asks_for_is_told(ready, wish, verdict, delay):
    outcome = ready(Asking).perform(wish)
    assert (outcome.verdict, outcome.delay) == (verdict, delay)


@pytest.mark.parametrize(
    ("wish", "complaint"),
    [
        ("retry soon", "TypeError: expected a delay in seconds, found 'soon'"),
        ("retry in a day", "TypeError: expected a delay in seconds, found datetime.timedelta(days=1)"),
        ("retry never", "ValueError: expected a delay of at most 315576000 seconds (10 years), found inf"),
        (
            "retry in milliseconds",
            "ValueError: expected a delay of at most 315576000 seconds (10 years), found 1800000000000",
        ),
        (
            "retry never, set later",
            "ValueError: expected a delay of at most 315576000 seconds (10 years), found inf",
        ),
        (
            "retry in a day, set later",
            "TypeError: expected a delay in seconds, found datetime.timedelta(days=1)",
        ),
    ],
)
def test_a_retry_after_what_is_no_number_of_seconds_is_a_failure_and_no_crash(ready, wish, complaint):
    line = ready(Asking)
    outcome = line.perform(wish)
    assert (outcome.verdict, outcome.error) == (Verdict.FAILED, complaint)
    assert line.perform("retry").verdict is Verdict.RETRY


def test_a_timeout_reaches_the_handler_and_the_next_workitem_has_its_own_time(ready):
    line = ready(Executing, limits=Limits(timeout=0.2))
    error = line.failure("__import__('signal').pause()")["error"]
    assert (error["type"], error["message"]) == ("TaskTimeout", "its timeout of 0.2 s has passed")
    assert "in handle_task" in error["traceback"]
    assert line.value("__import__('signal').getitimer(0)[0]") > 0
    assert line.hang_up() == ExitStatus.OK


# --- failures ---


def test_a_handler_that_raises_makes_a_failure_with_the_traceback_of_its_own_code(ready):
    failure = ready(Executing).failure("1 / 0")
    assert failure["workitem"] == "1 / 0"
    error = failure["error"]
    assert (error["type"], error["message"]) == ("ZeroDivisionError", "division by zero")
    assert "in handle_task" in error["traceback"]
    assert "_perform" not in error["traceback"]


@pytest.mark.parametrize(
    ("code", "kind", "message"),
    [
        ("sys.exit(0)", "SystemExit", "0"),
        ("sys.exit('words')", "SystemExit", "words"),
        ("exec('raise KeyboardInterrupt')", "KeyboardInterrupt", ""),
        ("exec('raise GeneratorExit')", "GeneratorExit", ""),
        ("exec('raise Wrong')", "Wrong", "<exception str() failed>"),
        ("exec('raise Indescribable')", "Indescribable", "<it cannot be described: RuntimeError>"),
        ("exec('raise Endless(7)')", "Endless", "7"),
        ("exec('raise type(10**6 * \"x\", (ValueError,), {})')", "x" * 200, ""),
        ("(lambda f: f(f))(lambda f: f(f))", "RecursionError", "maximum recursion depth exceeded"),
        ("bytearray(10**15)", "MemoryError", ""),
        ("{1}", "ResultUnwritable", "handle_task returned a set "),
        (
            "bytes(160 * 2**20)",
            "ResultUnwritable",
            "the result has 167772160 bytes; at most 166723584 can be sent",
        ),
        ("float('nan')", "ResultUnwritable", "handle_task returned a float "),
        ("'\\ud800'", "ResultUnwritable", "handle_task returned a str "),
    ],
)
def test_whatever_a_handler_raises_is_a_failure_and_the_worker_goes_on(ready, code, kind, message):
    line = ready(Executing)
    error = line.failure(code)["error"]
    assert error["type"] == kind
    assert error["message"].startswith(message)
    assert line.value("[7]") == [7]


@pytest.mark.parametrize("how", ["return", "close", "raise", "wait"])
def test_a_workitem_leaves_nothing_behind_for_the_next_one(ready, how):
    line = ready(Untidy, limits=Limits(timeout=0.3))
    line.perform(how)
    assert line.value("return") == ["/usr", 0o027, "yes", None, True]
    assert line.child.output().count("this is heard") == 2


def test_a_worker_that_a_handler_has_spent_is_replaced(ready):
    line = ready(Executing)
    assert line.value("setattr(self, 'is_spent', True) or 7") == 7
    assert line.receive() == (Kind.RETIRING, b"")
    assert line.hang_up() == ExitStatus.OK


def test_a_failure_that_there_is_no_memory_to_quote_its_workitem_in_is_no_crash(ready):
    line = ready(Cramped)
    # 16 MiB, the most that is quoted. As text it takes four bytes for each character, 64 MiB, more than
    # malloc(3) has reserved for a thread.
    failure = line.failure("\U0001f600" + "x" * (16 * 1024 * 1024 - 4))
    assert failure == {"error": failure["error"] | {"type": "ValueError"}, "workitem": None}
    assert line.failure("small")["workitem"] == "small"


def test_a_worker_without_a_handler_fails_every_workitem(ready):
    error = ready(NoHandler).failure("x")["error"]
    assert error["message"] == "NoHandler does not define handle_task"


@pytest.mark.parametrize(
    ("kind", "body", "complaint"),
    [
        ("application/json", b"{", "the body is not application/json: "),
        ("application/json", b"[" * 100_000, "application/json: nested too deeply to be read"),
        ("text/plain", b"\xff", "the body is not text/plain: "),
        ("text/plain; charset=punycode", b"a" * 400_000, "the body is not text/plain: charset 'punycode' "),
        ('text/plain; charset="IDNA"', b"a", "the body is not text/plain: charset 'idna' is not one of "),
        ("text/plain; charset=unicode_escape", b"a", "the body is not text/plain: charset 'unicode-"),
    ],
)
def test_a_body_that_cannot_be_decoded_is_a_failure(ready, kind, body, complaint):
    line = ready(Echo)
    failure = line.failure(body, content_type=kind)
    assert failure["error"]["type"] == "WorkitemUnreadable"
    assert failure["error"]["message"].startswith(complaint)
    assert failure["workitem"] is None
    assert line.perform("x").verdict is Verdict.SUCCEEDED


def test_a_content_type_that_is_not_accepted_is_a_failure_without_a_run(ready):
    line = ready(Picky)
    for kind in ("text/plain", "TEXT/csv; header=absent"):
        assert line.perform("1", content_type=kind).verdict is Verdict.SUCCEEDED
    assert line.value("1", content_type=None) == 1
    error = line.failure("<a/>", content_type="application/xml")["error"]
    assert error["message"] == (
        "content type 'application/xml' is not accepted; expected Text/*, application/json"
    )


def test_headers_that_cannot_be_read_fail_only_who_reads_them(ready):
    line = ready(Curious)
    failure = line.failure("x", header_table=b"\x01aZ")
    assert failure["error"]["type"] == "MalformedProperties"
    assert line.value("")


# --- processes ---


@pytest.mark.parametrize("body", ["return", "raise"])
def test_a_fork_that_comes_back_out_of_the_handler_is_not_heard(ready, body):
    line = ready(Forking)
    for _ in range(2):
        assert line.perform(body).body == b"from the parent"
    assert line.hang_up() == ExitStatus.OK
    assert line.connection.recv(100) == b""


@pytest.mark.parametrize(("code", "status"), [("os._exit(7)", 7), ("os.kill(os.getpid(), 11)", -11)])
def test_a_worker_that_dies_in_the_handler_leaves_no_outcome(ready, code, status):
    line = ready(Executing)
    line.send(code)
    assert line.child.wait() == status
    assert line.connection.recv(100) == b""


def test_a_worker_that_is_told_garbage_ends(ready):
    line = ready(Echo)
    line.connection.sendall(b"\xff" * 100)
    line.credit(1)
    assert line.child.wait() not in (None, ExitStatus.OK)
    assert "FrameError" in line.child.output()
