"""The commands as they are called, in this process where that is possible."""

import json
import os
import pwd
import socket
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path

import click
import pytest
from support.configs import SECRET
from support.distribution import install

from taskqueue import cli
from taskqueue.config.settings import LIMIT, SCHEDULE, specification
from taskqueue.control import key
from taskqueue.process import logs

CALLER = pwd.getpwuid(os.geteuid()).pw_name
COMMANDS = [
    "up",
    "dispatcher",
    "workerpool",
    "monitor",
    "flow",
    "submit",
    "workflow",
    "schedule",
    "limit",
    "unique",
    "status",
    "list",
    "logs",
    "cancel",
    "top",
    "ps",
    "pause",
    "resume",
    "drain",
    "undrain",
    "scale",
    "roll",
    "control",
    "run",
    "feed",
    "work",
    "failed",
    "rejected",
    "doctor",
    "config",
    "plugins",
]


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A directory on the modules' path, in which plugins may be installed."""
    monkeypatch.syspath_prepend(tmp_path / "site")
    return tmp_path / "site"


@pytest.fixture
def syslog(tmp_path, monkeypatch, request):
    """A machine with a syslog that listens, or, for False, without."""
    monkeypatch.setattr(logs, "SYSLOG_SOCKET", str(tmp_path / "log"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        if request.param:
            listening.bind(logs.SYSLOG_SOCKET)
        yield


def name_of(path):
    return path and Path(path).name


def beside_roots(errors):
    """Return the lines but those about what another user cannot read: root's temporary directory."""
    return [line for line in errors.splitlines() if not line.startswith("warning: the daemons ")]


def rows(text, title):
    """Return the rows of the table of this title by what is in their first column."""
    table = text.partition(f"\n{title}\n")[2].partition("\n\n")[0]
    return {line.split()[0]: line.split() for line in table.splitlines()[1:]}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(call, command):
    status, text, errors = call(command, "--help")
    assert (status, errors) == (0, "")
    assert text.startswith(f"Usage: taskqueue {command} ")
    assert "fd" not in text.split()  # what is between our own processes is not shown
    assert len(text.splitlines()) > 5


def commands_of(command, *names):
    """Return the names by which a command and all below it are called."""
    found = command.list_commands(None) if isinstance(command, click.Group) else []
    below = [commands_of(command.get_command(None, name), *names, name) for name in found]
    return [names, *(each for each_below in below for each in each_below)]


@pytest.mark.parametrize("names", commands_of(cli.taskqueue), ids=" ".join)
def test_every_command_below_a_command_explains_itself_too(call, names):
    texts = [call(*names, option) for option in ("-h", "--help")]
    assert texts[0] == texts[1]
    status, text, errors = texts[0]
    assert (status, errors) == (0, "")
    assert text.startswith(" ".join(["Usage: taskqueue", *names, ""]))


def test_the_help_names_every_command(call):
    status, text, _ = call("--help")
    assert status == 0
    listed = text.partition("Commands:\n")[2].splitlines()
    assert {line.split()[0] for line in listed} == set(COMMANDS)
    assert not any("..." in line for line in listed)  # no summary is cut


@pytest.mark.parametrize(
    "name", [name for name in COMMANDS if isinstance(cli.taskqueue.get_command(None, name), click.Group)]
)
def test_the_help_of_a_group_cuts_no_summary(call, name):
    listed = call(name, "--help")[1].partition("Commands:\n")[2]
    assert listed
    assert "..." not in listed


def test_the_help_keeps_the_lines_of_its_example(call):
    lines = [line.strip() for line in call("--help")[1].splitlines()]
    assert "taskqueue submit digest /etc/hostname --wait    in another" in lines
    assert not any("\b" in line or "\\b" in line for line in lines)


def test_the_version_is_told(call):
    status, text, _ = call("--version")
    assert status == 0
    assert text.startswith("taskqueue, version ")


def test_an_unknown_command_and_a_missing_argument_are_usage_errors(call):
    for arguments in (
        ["frobnicate"],
        ["submit"],
        ["config", "--format", "xml"],
        ["submit", "t", "--wait", "--timeout", "-1"],
        ["submit", "t", "1", "--timeout", "1"],  # there is nothing to wait for
    ):
        status, text, errors = call(*arguments)
        assert (status, text) == (2, "")
        assert "Error: " in errors
        assert "Traceback" not in errors


@pytest.mark.parametrize("name", ["../../x", "x" * 300, "", "a b", "-"])
def test_a_bad_worker_type_is_not_submitted(call, name):
    status, text, errors = call("submit", "--", name, "{}")
    assert (status, text) == (2, "")
    assert "is not 1 to 100 of letters, digits" in errors


# --- config ---


def test_the_configuration_is_shown_with_its_groups_and_without_its_password(call, write, site):
    install(site, "trial", {"worker1": "missing:x"})
    path = write(
        f"[amqp]\nurl: amqp://joe:{SECRET}@rabbit\n[worker1]\nworkers: 3\ncolour: red\napi_key: {SECRET}\n"
        "max_prefetch: 7\nmax_crashes: 8\noutput_rate: 9\nresults_expire: 4294967\nreport_results: no\n"
        "retries: 4\nretry_delay: 6\nretry_backoff: 1.5\ntimeout: 2.5\nmax_tasks: 100\nmax_memory: 200\n"
        "cpu_limit: 30\n"
    )
    status, text, errors = call("config", "-c", path)
    assert (status, beside_roots(errors)) == (0, [])
    assert path in text
    assert "rabbit:5672" in text
    assert "***" in text
    assert SECRET not in text
    user = "taskqueue-worker" if os.geteuid() == 0 else CALLER
    assert rows(text, "Groups")["worker1"] == ["worker1", "worker1", "3", user, "7", "8", "9"]
    shown = rows(text, "Results and own settings of the groups")["worker1"]
    assert shown == ["worker1", "results", "no", "4294967", "api_key=***,", "colour=red"]
    assert rows(text, "Retries of the groups")["worker1"] == ["worker1", "4", "6", "1.5", "3600", "0.1"]
    assert rows(text, "Times of the groups, in seconds")["worker1"] == ["worker1", "2.5", "5", "600", "300"]
    assert rows(text, "Limits of the groups")["worker1"] == ["worker1", "100", "200", "0", "30", "0"]
    assert rows(text, "Plugins")["worker1"] == ["worker1", "trial", "1.0", "missing:x"]
    assert "Commands" not in text


def test_standing_commands_that_are_not_known_are_told_in_one_line(call, write, tmp_path):
    place = tmp_path / "other.key"
    path = write(f"[amqp]\nhost: localhost\nport: 1\n[workerpool]\ncontrol_key: {place}\n")
    told = "Standing commands are not known: "
    assert f"{told}{place}: expected a readable file, found No such file" in call("config", "-c", path)[1]
    key.make(place, CALLER)
    status, text, _ = call("config", "-c", path)
    (line,) = [each for each in text.splitlines() if each.startswith(told)]
    assert (status, "localhost:1" in line or "127.0.0.1:1" in line) == (0, True), line
    assert json.loads(call("config", "-c", path, "--format", "json")[1])["standing"]["unknown"] in line
    place.unlink()
    path = write("[amqp]\nhost: localhost\nport: 1\n")
    assert told not in call("config", "-c", path)[1], "without a key nobody is asked"


def test_commands_are_shown_without_the_passwords_in_their_urls(call, write):
    path = write("[up]\ncommand: /bin/cat http://a:k1ngf1sher@b\n[down]\ncommand: /bin/tr 'a b' {x}\n")
    text = call("config", "-c", path)[1]
    assert rows(text, "Commands of the groups") == {
        "up": ["up", "/bin/cat", "http://a:***@b", "exec", "text/plain", "16777216"],
        "down": ["down", "/bin/tr", "'a", "b'", "'{x}'", "exec", "text/plain", "16777216"],
    }


CAT = "command: /bin/cat 'a b'"


def test_every_option_is_shown(call, write, site):
    install(site, "trial", {"worker1": "missing:x"})
    words = call("config", "-c", write(f"[amqp]\nhost: rabbit\n[up]\nworkers: 2..3\n{CAT}\n"))[1].split()
    # Those of schedules and limits are shown in a few words.
    kinds = [kind for kind in specification() if kind not in (SCHEDULE, LIMIT)]
    options = {name for kind in kinds for name in specification()[kind]}
    # Other ways to say what hosts, password and ssl show.
    assert options - {"url", "host", "port", "passwd", "passwd_file"} <= set(words)


def test_the_next_three_times_of_each_schedule_are_shown(call, write):
    text = "[schedule yearly]\ncron: 30 12 24 12 *\ntimezone: Asia/Kolkata\ntype: x\n"
    path = write(f"{text}[schedule soon]\nevery: 15m\ntype: y\n")
    status, shown, _ = call("config", "-c", path)
    _, columns = shown.partition("\nSchedules\n")[2].split("\n")[:2]
    assert (status, columns.split()[:5]) == (0, ["yearly", "30", "12", "24", "12"])
    assert columns.count("-12-24 12:30:00+05:30") == 3
    plain = json.loads(call("config", "-c", path, "--format", "json")[1])["schedules"]
    assert [(each["name"], len(each["next"])) for each in plain] == [("yearly", 3), ("soon", 3)]
    times = [datetime.fromisoformat(each) for each in plain[1]["next"]]
    assert [later - one for one, later in pairwise(times)] == [timedelta(minutes=15)] * 2


@pytest.mark.parametrize(
    ("written", "syslog", "background"),
    [
        ("stderr", True, "syslog"),
        ("stderr", False, "taskqueue.log"),
        ("syslog", False, "taskqueue.log"),
        ("syslog", True, None),
        ("/dev/null", True, None),
    ],
    indirect=["syslog"],
)
@pytest.mark.usefixtures("syslog")
def test_it_is_told_that_daemons_in_the_background_log_elsewhere(call, write, written, background):
    path = write(f"[logging]\ndestination: {written}\n")
    shown = rows(call("config", "-c", path)[1].replace("\n[logging]  ", "\n"), "Settings")
    assert shown["destination"][1] == written
    assert name_of(shown.get("destination_in_background", [None])[-1]) == background
    plain = json.loads(call("config", "-c", path, "--format", "json")[1])
    assert plain["logging"]["destination"] == written
    assert name_of(plain["logging"].get("destination_in_background")) == background


def test_what_is_shown_is_written_as_in_the_documentation_and_without_trailing_blanks(call, write):
    _, text, _ = call("config", "-c", write("[workerpool]\nstop_timeout: 2.5\n"))
    lines = text.splitlines()
    assert [line.split() for line in lines if "stop_timeout" in line] == [
        ["[dispatcher]", "stop_timeout", "30"],
        ["[workerpool]", "stop_timeout", "2.5"],
    ]
    assert not [line for line in lines if line != line.rstrip()]


def test_the_configuration_is_shown_as_json(call, write, site):
    install(site, "trial", {"worker1": "missing:x"})
    path = write(f"[amqp]\nurl: amqp://joe:{SECRET}@rabbit\n[worker1]\nworkers: 3\ncolour: red\n")
    status, text, errors = call("config", "-c", path, "--format", "json")
    assert (status, errors) == (0, "")  # warnings, too, are in the JSON
    assert SECRET not in text
    shown = json.loads(text)
    assert {"amqp", "dispatcher", "workerpool", "logging", "groups", "plugins"} <= shown.keys()
    assert "worker1" in shown["plugins"]


def test_all_faults_are_printed_one_a_line_with_status_78(call, write):
    path = write(
        f"[dispatcher]\nwindw: 9\n[logging]\nlevel: loud\n[amqp]\nhost: a\nport: x\npassword: {SECRET}\n"
    )
    status, text, errors = call("config", "-c", path)
    assert (status, text) == (78, "")
    assert len(errors.splitlines()) == 3
    assert all(line.startswith(f"taskqueue: {path}: section [") for line in errors.splitlines())
    assert "window" in errors
    assert SECRET not in errors


def test_faults_come_with_the_warnings(call, write):
    path = write("[dispatcher]\nwindow: x\n[digset]\n")
    status, text, errors = call("config", "-c", path)
    assert (status, text) == (78, "")
    warning, fault = errors.splitlines()
    assert warning.startswith("warning: section [digset]: no plugin 'digset' is installed")
    assert fault.startswith(f"taskqueue: {path}: section [dispatcher], option window: ")
    status, text, errors = call("config", "-c", path, "--format", "json")
    assert (status, errors) == (78, "")
    assert json.loads(text) == {
        "faults": [fault.removeprefix("taskqueue: ")],
        "warnings": [warning.removeprefix("warning: ")],
    }


@pytest.mark.parametrize("command", ["config", "dispatcher", "workerpool", "submit", "up"])
def test_a_faulty_configuration_starts_nothing(call, write, command, monkeypatch):
    monkeypatch.delenv("TASKQUEUE_AMQP", raising=False)
    path = write("[dispatcher]\nwindow: three\n")
    more = ["digest", "{}"] if command == "submit" else []
    status, text, errors = call(command, *more, "-c", path)
    assert (status, text) == (78, "")
    assert errors == (
        f"taskqueue: {path}: section [dispatcher], option window: {errors.rpartition('window: ')[2]}"
    )
    assert "'three'" in errors
    assert len(errors.splitlines()) == 1


def test_a_configuration_that_is_not_there_is_a_fault(call, tmp_path):
    status, text, errors = call("config", "-c", str(tmp_path / "missing.ini"))
    assert (status, text) == (78, "")
    assert errors.startswith(f"taskqueue: {tmp_path}/missing.ini: ")
    assert len(errors.splitlines()) == 1


def test_a_section_without_a_plugin_is_a_warning_that_names_those_that_are_installed(call, write, site):
    install(site, "trial", {"worker1": "missing:x"})
    status, _, errors = call("config", "-c", write("[digset]\nworkers: 1\n"))
    assert status == 0
    assert "no plugin 'digset' is installed; installed: " in errors
    assert "worker1" in errors


def test_an_address_with_a_fault_is_told_without_its_password(call):
    for arguments in (["submit", "digest", "{}"], ["dispatcher", "-f"], ["workerpool", "-f"], ["up"]):
        status, text, errors = call(*arguments, "--amqp", f"amqp://joe:{SECRET}@host:port/")
        assert (status, text) == (78, "")
        assert errors.startswith("taskqueue: AMQP address: ")
        assert SECRET not in errors


def test_without_any_broker_the_ways_to_name_one_are_told(call, write):
    for arguments in (["submit", "digest", "{}"], ["dispatcher", "-f"], ["workerpool", "-f"]):
        status, text, errors = call(*arguments, "-c", write(""))
        assert (status, text) == (78, "")
        assert errors.startswith("taskqueue: no broker: expected --amqp, TASKQUEUE_AMQP, or url")
        assert "taskqueue up" in errors


def test_a_broker_that_cannot_be_reached_is_a_line_and_status_69(call, write):
    url = f"amqp://joe:{SECRET}@127.0.0.1:1/"
    status, text, errors = call("submit", "digest", "{}", "-c", write(""), "--amqp", url)
    assert (status, text) == (69, "")
    assert "127.0.0.1" in errors
    assert len(errors.splitlines()) == 1
    assert SECRET not in errors


# --- plugins ---


def test_plugins_are_listed_with_where_they_come_from(call, site):
    install(site, "trial-plugins", {"t1": "missing_module:X.factory"}, version="2.5")
    status, text, errors = call("plugins", "--format", "json")
    assert (status, errors) == (1, "")
    [plugin] = [plugin for plugin in json.loads(text) if plugin["name"] == "t1"]
    assert plugin.pop("importable") is False
    assert plugin.pop("error")
    assert plugin == {
        "name": "t1",
        "target": "missing_module:X.factory",
        "distribution": "trial-plugins",
        "version": "2.5",
    }


def test_plugins_are_listed_as_a_table(call, site):
    install(site, "trial-plugins", {"t1": "missing_module:X.factory"}, version="2.5")
    status, text, _ = call("plugins")
    assert status == 1
    [row] = [line for line in text.splitlines() if line.startswith("t1 ")]
    assert row.split()[:5] == ["t1", "trial-plugins", "2.5", "missing_module:X.factory", "no:"]


@pytest.mark.skipif(
    os.geteuid() == 0, reason="as root, plugins are tried as the workers' user (tests/process)"
)
def test_a_plugin_that_can_be_imported_has_no_error(call, site, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(site))
    install(site, "trial", {"t1": "json:dumps"})
    _, text, _ = call("plugins", "--format", "json")
    [plugin] = [plugin for plugin in json.loads(text) if plugin["name"] == "t1"]
    assert (plugin["importable"], plugin["error"]) == (True, None)


@pytest.mark.skipif(
    os.geteuid() == 0, reason="as root, plugins are tried as the workers' user (tests/process)"
)
def test_a_plugin_that_cannot_be_imported_says_why(call, site, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(site))
    install(site, "trial", {"t1": "missing_module:X"})
    _, text, _ = call("plugins", "--format", "json")
    [plugin] = [plugin for plugin in json.loads(text) if plugin["name"] == "t1"]
    assert plugin["importable"] is False
    assert "No module named 'missing_module'" in plugin["error"]
