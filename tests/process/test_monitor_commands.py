"""`taskqueue status`, `list`, `logs` and `cancel` over a real record: read directly, and over HTTP."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
from support.documentation import commands, example
from support.processes import cli, run_cli
from support.recorded import CONSUMER, DISPATCHER, ENDED, ROUTED, batch, write_record
from support.web import Web, serving

from taskqueue.messages.events import Begun, Ended, LogLine, ProcessState, Routed
from taskqueue.monitor.report import Report, write_report
from taskqueue.monitor.store.store import Store
from taskqueue.monitor.web import users
from taskqueue.monitor.web.rights import Rights
from taskqueue.monitor.web.users import UserFile

TOKEN = users.new_secret()
URL_LINE = "[monitor]\ndatabase: {}\n"


@pytest.fixture
def record(tmp_path):
    write_record(tmp_path / "record")
    return tmp_path / "record"


@pytest.fixture
def config(tmp_path, record):
    path = tmp_path / "config.ini"
    path.write_text(f"[monitor]\ndatabase: {record}\n")
    return str(path)


def runner(where, env):
    """Return a function that runs a command with more options; it fails where the status is another one."""

    def run(*arguments, status=0):
        done = run_cli(*arguments, *where, env=env)
        assert done.returncode == status, done.stdout + done.stderr
        return done

    return run


@pytest.fixture(scope="module", params=["direct", "http"])
def run(request, tmp_path_factory):
    """Run a command on a record that no test changes, with each of the two ways to it."""
    directory = tmp_path_factory.mktemp("shared")
    record = directory / "record"
    write_record(record)
    if request.param == "direct":
        config = directory / "config.ini"
        config.write_text(f"[monitor]\ndatabase: {record}\n")
        yield runner(["-c", str(config)], {})
        return
    with serving(record, directory, TOKEN) as web:
        yield runner(["--monitor", web.url], {"TASKQUEUE_MONITOR_TOKEN": TOKEN})


@pytest.fixture(params=["direct", "http"])
def run_on_own(request, config, daemon, record):
    """The same on a record of this test alone."""
    if request.param == "direct":
        return runner(["-c", config], {})
    return runner(["--monitor", Web(daemon, record, TOKEN).url], {"TASKQUEUE_MONITOR_TOKEN": TOKEN})


# --- status ---


@pytest.mark.parametrize(
    ("id_", "state", "status"),
    [
        ("north-1", "succeeded", 0),
        ("north-2", "queued", 0),
        ("plain-1", "scheduled", 0),
        ("south-2", "running", 0),
        ("south-1", "failed", 1),
        ("reject-1", "rejected", 1),
    ],
)
def test_the_exit_status_says_what_became_of_a_workitem(run, id_, state, status):
    assert json.loads(run("status", id_, "--format", "json", status=status).stdout)["state"] == state


def test_an_id_that_was_never_seen_has_a_status_of_its_own(run):
    for command in ("status", "logs"):
        done = run(command, "nobody", status=4)
        assert done.stdout == ""
        assert done.stderr.startswith("taskqueue: workitem 'nobody': never seen; the record begins at ")
        assert done.stderr.count("\n") == 1


def test_an_id_that_cannot_exist_or_is_not_routed_yet_is_told(run_on_own, record):
    at = time.time() + 10  # after the record's beginning
    with Store(record) as store:
        state = ProcessState(at + 5, "takes work")
        store.write([(9, batch(DISPATCHER, len(ROUTED) + 1, [state]))], at + 5)
    for depth, said in (
        (0, r"never existed \(before .* UTC; "),
        (4, r"not routed yet, .*: 4 ahead .* UTC; "),
    ):
        write_report(
            record, Report(at, "records", depths={"taskqueue": depth}, depths_at=at, depths_until=at)
        )
        assert re.match(
            rf"taskqueue: workitem 'nobody': {said}", run_on_own("status", "nobody", status=4).stderr
        )


def test_the_beginning_of_an_id_is_enough_for_people_if_no_other_begins_so(run):
    for command in ("status", "logs"):
        done = run(command, "sout", status=2)
        assert done.stdout == ""
        assert done.stderr == (
            "taskqueue: no workitem has the id 'sout', and several ids begin with it: south-2, south-1\n"
        )
        done = run(command, "plain")
        assert done.stderr.splitlines()[0] == "plain is the beginning of one id: plain-1"
        assert ("image-small" in done.stdout) == (command == "status")
        for words in (("plain", "--format", "json"), ("pla",), ("plain\n",)):
            assert "never seen" in run(command, *words, status=4).stderr


def test_a_workitem_is_shown_with_its_time_line_and_its_traceback(run):
    shown = run("status", "south-1", status=1).stdout
    assert "SMTPError: disk full" in shown
    assert shown.index("queued  ") < shown.index("started  ") < shown.index("failed  ")
    assert shown.endswith("Traceback: line 1\nline 2\n")


def test_it_is_shown_how_long_a_workitem_has_run(run):
    assert re.search(r"^runs for .*\d:\d\d:\d\d$", run("status", "south-2").stdout, re.MULTILINE)
    assert "runs for" not in run("status", "north-1").stdout


def test_to_read_the_record_loads_no_amqp():
    code = "import sys, taskqueue.cli.status; print('pika' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "False\n"


def test_an_odd_id_is_found_and_shown_as_text(run):
    name = "odd/../id?x=1&y <b>"
    assert json.loads(run("status", "--format", "json", name).stdout)["id"] == name


def test_without_an_id_the_overview_is_shown(run):
    shown = run("status").stdout
    (digest,) = [line.split() for line in shown.splitlines() if line.startswith("digest")]
    assert digest[1] == "2"
    assert "consumer digest  host2" in shown
    assert "1 of 4" in shown
    overview = json.loads(run("status", "--format", "json").stdout)
    assert {row["worker_type"]: row["running"] for row in overview["types"]}["mail"] == 1
    assert len(overview["processes"]) == 2


def test_the_overview_shows_where_a_queue_differs_from_the_record(run_on_own, record):
    depths = {"worker_digest": 5, "worker_mail": 0}
    write_report(record, Report(time.time(), "records", depths=depths, depths_at=time.time()))
    shown = run_on_own("status").stdout
    (digest,) = [line for line in shown.splitlines() if line.startswith("digest")]
    assert digest.split()[1:4] == ["2", "5", "(+3)"]
    overview = json.loads(run_on_own("status", "--format", "json").stdout)
    differences = {row["worker_type"]: (row["depth"], row["difference"]) for row in overview["types"]}
    assert differences == {"digest": (5, 3), "mail": (0, 0), "image-small": (None, None), "": (None, None)}


@pytest.mark.parametrize(("consumers", "is_told"), [(0, True), (1, False)])
def test_a_type_whose_work_nobody_takes_is_named(run_on_own, record, consumers, is_told):
    report = Report(
        *(time.time(), "records"),
        depths={"worker_digest": 2, "worker_mail": 1},
        consumers={"worker_digest": consumers, "worker_mail": 0},
        depths_at=time.time(),
    )
    write_report(record, report)
    said = "no worker serves digest now\n" if is_told else ""
    assert run_on_own("status").stderr == said  # the worker of mail is busy
    assert run_on_own("status", "north-2").stderr == said
    assert run_on_own("status", "north-1").stderr == ""
    assert run_on_own("status", "south-1", status=1).stderr == ""


def test_who_follows_a_workitem_that_nobody_takes_is_told_once(config, record, daemon):
    report = Report(
        *(time.time(), "records"),
        depths={"worker_digest": 2}, consumers={"worker_digest": 0}, depths_at=time.time(),
    )  # fmt: skip
    write_report(record, report)
    following = daemon(cli("status", "north-2", "-w", "-c", config))
    following.wait_for("no worker serves digest now")
    with Store(record) as store:
        ended = Ended("north-2", "digest", 1, "succeeded", "succeeded", time.time(), tenant="north")
        store.write([(9, batch(CONSUMER, len(ENDED), [ended]))])
    assert following.wait() == 0
    assert following.output().count("no worker serves") == 1


def test_a_limited_token_shows_its_own_workitems_only(daemon, record):
    account, secret = users.token(Rights("north", tenants=frozenset(("north",))))
    UserFile(record / "users.json").add(account)
    where = ["--monitor", Web(daemon, record).url]
    env = {"TASKQUEUE_MONITOR_TOKEN": secret}
    assert run_cli("status", "south-1", *where, env=env).returncode == 4
    overview = run_cli("status", *where, env=env)
    assert (overview.returncode, "mail" in overview.stdout) == (0, False)


# --- list, logs ---


def test_filters_and_limits_choose_what_is_listed(run):
    def ids(*arguments):
        page = json.loads(run("list", *arguments, "--format", "json").stdout)
        return {each["id"] for each in page["workitems"]}

    assert ids("--state", "failed", "--state", "rejected") == {"south-1", "reject-1"}
    assert ids("--type", "digest", "--tenant", "north", "--since", "1h") == {"north-1", "north-2"}
    assert ids("--error", "disk", "--until", "7d") == set()
    assert ids("--type", "mai*", "--type", "image-?mall") == {"south-1", "south-2", "plain-1"}
    assert ids("--type", "zzz*") == set()
    assert len(ids("--limit", "3")) == 3


def test_a_list_is_a_table(run):
    shown = run("list", "--id", "south").stdout.splitlines()
    assert shown[1].split() == ["id", "type", "state", "queued", "ended", "runs", "error"]
    assert [line.split()[:3] for line in shown[2:]] == [
        ["south-2", "mail", "running"],
        ["south-1", "mail", "failed"],
    ]
    assert run("list", "--id", "zzz").stdout == "No workitem matches.\n"


def test_pages_follow_one_another(run):
    first = json.loads(run("list", "--limit", "4", "--format", "json").stdout)
    second = json.loads(run("list", "--cursor", first["next"], "--format", "json").stdout)
    assert len({each["id"] for page in (first, second) for each in page["workitems"]}) == 7


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--state", "done"], "'done' is not one of 'queued'"),
        (["--since", "soon"], "expected 30m, 2h or 7d ago, seconds since 1970, or a time"),
        (["--limit", "1001"], "--limit': expected a whole number from 1 to 1000, found '1001'."),
        (["--limit", "many"], "expected a whole number from 1 to 1000, found 'many'."),
        (["--type", "a b"], "parameter type: expected a worker type"),
    ],
)
def test_a_wrong_filter_is_said_in_a_line(run, arguments, said):
    done = run("list", *arguments, status=2)
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_the_output_of_a_workitem_is_shown_with_control_characters_escaped(run):
    lines = run("logs", "north-1").stdout.splitlines()
    assert [line.partition("digest/1 ")[2] for line in lines] == [
        "stdout: first line",
        r"info: second \x1b[31mline",
    ]
    objects = [json.loads(line) for line in run("logs", "north-1", "--format", "json").stdout.splitlines()]
    assert [each["text"] for each in objects] == ["first line", "second \x1b[31mline"]


def test_a_workitem_without_output_is_said_to_have_none(run):
    done = run("logs", "south-1")
    assert done.stdout == ""
    assert done.stderr == (
        "no output is recorded: its handler wrote nothing, or more than output_rate lets through\n"
    )


# --- following ---


def test_no_field_of_a_line_of_output_makes_another_line(run_on_own, record):
    line = LogLine("forged", time.time(), "w\n2026", "info\x1b[2J\n", "text")
    with Store(record) as store:
        store.write([(10**6, batch(CONSUMER, 10**6, [Begun("forged", "digest", 1, time.time(), "w"), line]))])
    (shown,) = run_on_own("logs", "forged").stdout.splitlines()
    assert shown.endswith(r" w\n2026 info\x1b[2J\n: text")


def test_a_workitem_is_followed_from_before_its_first_event_to_its_end(config, record, daemon):
    following = daemon(cli("status", "new", "-w", "-c", config))
    logs = daemon(cli("logs", "plain-1", "-f", "-c", config))
    at, number = time.time(), len(ENDED)
    with Store(record) as store:
        for offset, events in enumerate(
            [
                [Routed("new", "digest", at, 1), Begun("plain-1", "image-small", 1, at, "image-small/1")],
                [Begun("new", "digest", 1, at + 1, "digest/1"),
                 LogLine("plain-1", at, "image-small/1", "info", "one")],
                [Ended("new", "digest", 1, "failed", "failed", at + 2, at + 1, error="OSError: no",
                       traceback="Trace"),
                 LogLine("plain-1", at, "image-small/1", "info", "two"),
                 Ended("plain-1", "image-small", 1, "succeeded", "succeeded", at + 2, at + 1)],
            ],
            start=3,
        ):  # fmt: skip
            store.write([(offset, batch(CONSUMER, number, events))])
            number += len(events)
            for process, text in ((following, ("queued", "started", "failed")), (logs, ("", "one", "two"))):
                process.wait_for(text[offset - 3]) if text[offset - 3] else None
    assert following.wait() == 1
    assert following.output().rstrip().endswith("Trace")
    assert logs.wait() == 0


@pytest.mark.parametrize(
    ("words", "first"), [(("status", "north-2", "-w"), "queued"), (("logs", "south-2", "-f"), "a line")]
)
def test_ctrl_c_ends_what_follows_a_workitem_without_a_word(config, record, daemon, words, first):
    with Store(record) as store:
        line = LogLine("south-2", time.time(), "mail/1", "info", "a line", "south")
        store.write([(9, batch(CONSUMER, len(ENDED), [line]))])
    following = daemon(cli(*words, "-c", config))
    following.wait_for(first)
    shown = following.output()
    following.signal(signal.SIGINT)
    assert following.wait() == 130
    assert following.output().strip() == shown.strip()


# --- without a monitor ---


def test_without_a_record_a_line_says_how_to_start_a_monitor(tmp_path):
    path = tmp_path / "config.ini"
    path.write_text(f"[monitor]\ndatabase: {tmp_path}/none\n")
    (tmp_path / "none").mkdir()  # as `taskqueue monitor user add` makes it
    for command in (["status"], ["status", "x"], ["list"], ["logs", "x"]):
        done = run_cli(*command, "-c", str(path))
        assert (done.returncode, done.stdout) == (69, "")
        assert done.stderr == (
            f"taskqueue: there is no record in {tmp_path}/none: start a monitor with `taskqueue monitor`, or "
            "everything with `taskqueue up`, or name one by --monitor URL\n"
        )


def test_a_monitor_that_cannot_be_reached_is_named():
    done = run_cli("status", "--monitor", "http://127.0.0.1:1")
    assert (done.returncode, done.stderr) == (
        69, "taskqueue: the monitor at http://127.0.0.1:1 cannot be reached: Connection refused\n"
    )  # fmt: skip


@pytest.mark.parametrize("url", ["127.0.0.1:8672", "ftp://x", "http://", "http://x/path", "http://x:port"])
def test_an_address_that_is_none_is_an_error_of_one_line(url):
    done = run_cli("status", "--monitor", url)
    assert done.returncode == 78
    assert (
        done.stderr
        == f"taskqueue: --monitor: expected http://HOST:PORT or https://HOST:PORT, found '{url}'\n"
    )
    by_variable = run_cli("status", env={"TASKQUEUE_MONITOR": url})
    assert by_variable.stderr == done.stderr.replace("--monitor", "TASKQUEUE_MONITOR")


def test_a_missing_or_wrong_token_is_told(daemon, record, tmp_path):
    url = Web(daemon, record, TOKEN).url
    without = run_cli("status", "--monitor", url)
    assert (without.returncode, without.stderr) == (
        77,
        f"taskqueue: the monitor at {url} needs a token: expected --token-file or TASKQUEUE_MONITOR_TOKEN\n",
    )
    (tmp_path / "token").write_text("tq_wrong\n")
    wrong = run_cli("status", "--monitor", url, "--token-file", str(tmp_path / "token"))
    assert (wrong.returncode, wrong.stderr) == (
        77, f"taskqueue: the monitor at {url} refuses the token: the token is wrong\n"
    )  # fmt: skip
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    assert run_cli("status", "--monitor", url, "--token-file", str(tmp_path / "token")).returncode == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("closed", ["record", "its parent"])
def test_a_record_that_the_user_may_not_read_is_told(record, tmp_path, python, closed):
    hidden = tmp_path / "parent/record"
    hidden.parent.mkdir()
    record = record.rename(hidden)
    config = tmp_path / "config.ini"
    config.write_text(f"[monitor]\ndatabase: {hidden}\n")
    (record if closed == "record" else record.parent).chmod(0o700)
    for parent in (tmp_path, *tmp_path.parents[:3]):  # pytest's, of which pytest-xdist has one more
        parent.chmod(parent.stat().st_mode | 0o011)
    done = run_as_nobody(python, "status", "-c", str(config))
    assert done.returncode == 77
    assert "you cannot read the record in" in done.stderr


def run_as_nobody(python, *arguments):
    return subprocess.run(
        ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", str(python), "-P", "-m", "taskqueue",
         *arguments],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


# --- the page ---


def test_the_requests_of_the_page_are_answered(daemon, record):
    web = Web(daemon, record, TOKEN)
    listed, one = commands(
        example("docs/monitor.md", 'curl -s -H "Authorization: Bearer $TOKEN" "$MONITOR/api/v1/workitems?')
    )
    env = {"MONITOR": web.url, "TOKEN": TOKEN, "ID": "north-1"}
    assert [each["id"] for each in json.loads(shell(listed, env))["workitems"]] == ["south-1"]
    assert json.loads(shell(one, env))["state"] == "succeeded"
    (acting,) = commands(example("docs/monitor.md", '     -d \'{"filter"'))
    assert "the recorder cannot be asked" in json.loads(shell(acting, env))["error"]["message"]


def shell(typed, env):
    return subprocess.run(
        ["sh", "-euc", typed], env={**os.environ, **env}, check=True, capture_output=True, text=True
    ).stdout
