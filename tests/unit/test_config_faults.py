import pytest
from support.configs import PLUGINS, SECRET

from taskqueue.config import Fault, load
from taskqueue.errors import ConfigError
from taskqueue.texts import one_line


def test_a_fault_names_file_section_option_what_was_expected_and_what_was_found(write):
    path = write("[worker1]\nworkers: three\n")
    with pytest.raises(ConfigError) as caught:
        load(path, PLUGINS, as_root=False)
    expected = "a number of 0 or more, a range such as 2..16, or a list of subgroups"
    found = "'three', and no section [worker1_three] for it"
    assert caught.value.faults == (Fault(path, "worker1", "workers", expected, found),)
    assert (
        str(caught.value) == f"{path}: section [worker1], option workers: expected {expected}, found {found}"
    )


def test_a_fault_prints_only_the_parts_that_it_has():
    assert str(Fault(None, None, None, "a", "b")) == "expected a, found b"
    assert str(Fault("f", "s", None, "a", "b")) == "f: section [s]: expected a, found b"


def test_control_characters_do_not_reach_the_terminal(faults_of):
    assert one_line("a\x1b[1m\n\u2028é") == "a\\x1b[1m\\n\\u2028é"
    assert faults_of("[\x1b[31m]\n") == [
        (
            "section [\\x1b[31m]: expected a worker type: 1 to 100 of letters, digits, _ - and ., "
            "a letter or digit first, found '\\x1b[31m'"
        )
    ]


@pytest.mark.parametrize(
    ("section", "written", "nearest"),
    [("amqp", "pasword", "password"), ("amqp", "hots", "hosts"), ("dispatcher", "windw", "window"),
     ("workerpool", "stop_timout", "stop_timeout"), ("logging", "Levels", "level")],
)  # fmt: skip
def test_an_unknown_option_of_a_fixed_section_suggests_the_nearest_name(faults_of, section, written, nearest):
    expected = f"expected '{nearest}', the nearest option known here, found an unknown option"
    assert faults_of(f"[{section}]\n{written}: {SECRET}\n") == [
        f"section [{section}], option {written.lower()}: {expected}"
    ]


def test_an_unknown_option_that_is_near_to_none_lists_them_all(faults_of):
    assert faults_of(f"[logging]\nqqq: {SECRET}\n") == [
        "section [logging], option qqq: expected one of level, format, destination, found an unknown option"
    ]


def test_a_listed_subgroup_without_its_section_is_a_fault(faults_of):
    assert faults_of("[worker2]\nworkers: a, b\n[worker2_a]\n") == [
        "section [worker2], option workers: expected a section [worker2_b] for the subgroup 'b', found none"
    ]


def test_a_subgroup_cannot_have_subgroups(faults_of):
    assert faults_of("[worker2]\nworkers: a\n[worker2_a]\nworkers: b, c\n[worker2_a_b]\n[worker2_a_c]\n") == [
        "section [worker2_a], option workers: expected a number of 0 or more, found 'b, c'"
    ]


@pytest.mark.parametrize(
    ("text", "plugins"),
    [
        ("[a]\nworkers: b\n[a_b]\n", ["a", "a_b"]),
        ("[a]\nworkers: b_c\n[a_b]\nworkers: c\n[a_b_c]\n", ["a", "a_b"]),
    ],
)
def test_a_section_cannot_belong_to_two_worker_types(faults_of, text, plugins):
    (fault,) = faults_of(text, plugins)
    assert fault.startswith("section [a")
    assert "option workers: expected subgroups with sections of their own, found '" in fault
    assert "is another worker type's" in fault


@pytest.mark.parametrize("name", ["../../x", "_a", "a b", "x" * 101, "é"])
def test_a_section_that_cannot_be_a_worker_type_is_a_fault(faults_of, name):
    (fault,) = faults_of(f"[{name}]\nworkers: 1\n")
    assert fault.startswith(f"section [{name}]: expected a worker type: 1 to 100 of letters, digits")


def test_a_fault_in_default_is_told_once(faults_of):
    assert faults_of("[DEFAULT]\nmax_prefetch: none\nuser: root\n[worker1]\n[worker2]\n") == [
        "section [DEFAULT], option max_prefetch: expected a number from 1 to 65535, found 'none'",
        "section [DEFAULT], option user: expected an unprivileged user, found 'root'",
    ]


def test_all_faults_are_told_at_once_and_none_holds_a_password(faults_of):
    text = f"""
garbage {SECRET}
[amqp]
url: amqp://u:x/{SECRET}@h/
host: guest:{SECRET}@h
pasword: {SECRET}
passwd: {SECRET}
password: {SECRET}
port: 5672
  passwd: {SECRET}
heartbeat: password={SECRET}
[dispatcher]
windw: 3
instances: 0
[../../x]
[worker1]
workers: three
workers: 4
max_prefetch: 0
[worker1]
[worker2]
workers: a, b
[logging]
level: loud
[DEFAULT]
results_expire = forever
user = root
"""
    faults = faults_of(text)
    places = [
        fault.partition(": expected")[0].replace("section ", "").replace("option ", "") for fault in faults
    ]
    assert sorted(places) == sorted([
        "expected a [section] before the first option, found none before line 2", "[../../x]",
        "[amqp], url", "[amqp], url", "[amqp], host", "[amqp], pasword", "[amqp], passwd", "[amqp], port",
        "[amqp], heartbeat", "[dispatcher], windw", "[dispatcher], instances", "[logging], level",
        "[worker1]", "[worker1], workers", "[worker1], workers", "[worker1], max_prefetch",
        "[worker2], workers", "[worker2], workers", "[DEFAULT], results_expire", "[DEFAULT], user",
    ])  # fmt: skip
    assert SECRET not in "\n".join(faults)


def test_lanes_of_a_subgroup_are_a_fault_since_dispatchers_know_none(faults_of):
    assert faults_of("[worker2]\nworkers: a\n[worker2_a]\nlanes: 16\n") == [
        (
            "section [worker2_a], option lanes: expected it in [worker2] or [DEFAULT], where dispatchers "
            "read it, found it in the section of a subgroup"
        )
    ]
