import pickle
from pathlib import Path

import pytest
from support.configs import PLUGINS, SECRET, SEED, People, groups

from taskqueue.config import DispatcherSettings, GroupSettings, LoggingSettings, PoolSettings, Settings, load

PROJECT = Path(__file__).parents[2]


def test_the_seeds_file_gives_the_groups_it_always_gave():
    settings = load(str(SEED), PLUGINS, as_root=True, unix_users=People())
    assert groups(settings) == {
        "worker1": ("worker1", 3, None),
        "worker2_bifh1": ("worker2", 1, "bifh1"),
        "worker2_bifh2": ("worker2", 1, "bifh2"),
        "worker3": ("worker3", 1, None),
    }
    assert settings.warnings == ()


def test_colon_and_equals_sign_mean_the_same(read):
    with_colons = read("[worker1]\nworkers: 7\npath : /srv\n[amqp]\nhost: a\n[dispatcher]\nwindow:9\n")
    with_equals = read("[worker1]\nworkers = 7\npath=/srv\n[amqp]\nhost = a\n[dispatcher]\nwindow=9\n")
    assert with_colons == with_equals
    assert with_colons.groups[0].workers == 7
    assert dict(with_colons.groups[0].settings) == {"path": "/srv"}
    assert with_colons.dispatcher.window == 9


def test_both_kinds_of_comment_are_skipped(read):
    assert read("; one\n# two\n[worker1]\n;workers: 4\n# workers = 5\n").groups[0].workers == 1


def test_there_are_no_comments_behind_a_value_and_nothing_is_interpolated(read):
    settings = read("[worker1]\npattern: %(home)s $x ${y} ; a # b, c\n")
    assert dict(settings.groups[0].settings) == {"pattern": "%(home)s $x ${y} ; a # b, c"}


def test_option_names_have_no_case_and_section_names_have(read):
    settings = read("[Worker1]\nWORKERS: 3\nColour: Red\n", ["Worker1", "worker1"])
    assert groups(settings) == {"Worker1": ("Worker1", 3, None), "worker1": ("worker1", 1, None)}
    assert settings.groups[0].settings == (("colour", "Red"),)


def test_indented_lines_continue_a_setting_of_a_plugin(read):
    assert dict(read("[worker1]\nlist: a\n  b\n").groups[0].settings) == {"list": "a\nb"}


def test_a_byte_order_mark_is_skipped(read):
    assert read("\ufeff[worker1]\nworkers: 2\n").groups[0].workers == 2


def test_an_empty_file_and_no_file_give_the_defaults_and_a_group_a_plugin(read):
    none = load(None, PLUGINS, as_root=False)
    assert none == Settings(groups=tuple(GroupSettings(name=name, worker_type=name) for name in PLUGINS))
    empty = read("")
    assert empty.path is not None
    assert (empty.amqp, empty.groups, empty.warnings) == (None, none.groups, ())


def test_groups_inherit_default_and_fixed_sections_do_not(read):
    text = (
        f"[DEFAULT]\nworkers: 5\nuser: bifh1\nwindow: 7\nstop_timeout: 1\npassword: {SECRET}\n[dispatcher]\n"
    )
    settings = read(text, as_root=True)
    assert groups(settings) == {name: (name, 5, "bifh1") for name in PLUGINS}
    assert dict(settings.groups[0].settings) == {"password": SECRET, "stop_timeout": "1", "window": "7"}
    assert settings.dispatcher == DispatcherSettings()
    assert settings.workerpool == PoolSettings()


def test_a_subgroup_inherits_default_then_its_type_except_workers_then_its_own(read):
    settings = read("""
[DEFAULT]
workers: 4
a: default
b: default
c: default
[worker2]
workers: x, y
b: type
c: type
results_routing_key: elsewhere
[worker2_x]
c: own
[worker2_y]
workers: 2
""")
    x, y = (group for group in settings.groups if group.worker_type == "worker2")
    assert (x.name, x.workers, y.name, y.workers) == ("worker2_x", 4, "worker2_y", 2)
    assert dict(x.settings) == {"a": "default", "b": "type", "c": "own"}
    assert dict(y.settings) == {"a": "default", "b": "type", "c": "type"}
    assert x.results_routing_key == y.results_routing_key == "elsewhere"


def test_a_list_of_one_subgroup_is_a_list(read):
    settings = read("[worker2]\nworkers: x\n[worker2_x]\nworkers: 6\n", ["worker2"])
    assert groups(settings) == {"worker2_x": ("worker2", 6, None)}


def test_a_section_that_looks_like_a_subgroups_is_none_unless_it_is_listed(read):
    settings = read("[worker2]\nworkers: 2\n[worker2_x]\nworkers: 6\n", ["worker2"])
    assert groups(settings) == {"worker2": ("worker2", 2, None)}
    assert settings.warnings == (
        "section [worker2_x]: no plugin 'worker2_x' is installed; installed: worker2; is [worker2] meant?",
    )


@pytest.mark.parametrize("section", ["schedule", "schedules"])
def test_a_section_that_is_nearly_a_schedule_gets_a_hint(read, section):
    (warning,) = read(f"[{section}]\nevery: 5\n", ["digest"]).warnings
    assert warning.endswith("; installed: digest; is [schedule NAME] meant?")


def test_every_option_of_a_group_is_typed(read):
    settings = read("""
[worker1]
workers: 0
results_routing_key: my results
report_results: no
results_expire: 0.5
max_prefetch: 20
max_crashes: 1
output_rate: 0
""")
    assert settings.groups[0] == GroupSettings(
        name="worker1", worker_type="worker1", workers=0, user=None, results_routing_key="my results",
        report_results=False, results_expire=0.5, max_prefetch=20, max_crashes=1, output_rate=0, settings=(),
    )  # fmt: skip


def test_weights_without_lanes_are_a_warning(read):
    (warning,) = read("[worker1]\nweights: acme 3\n").warnings
    assert warning == "section [worker1]: option 'weights' is without effect, as the type has no lanes"
    assert read("[DEFAULT]\nlanes: 8\n[worker1]\nweights: acme 3\n").warnings == ()


def test_lanes_are_read_with_weights_and_without_a_plugin(read):
    settings = read(
        "[DEFAULT]\nlanes: 16\n[worker1]\nlanes: None\n"
        "[worker2]\nweights: acme 3, Big Example Ltd 1000\nmax_wait: 0\n[elsewhere]\nlanes: 64\n",
        ["worker1", "worker2"],
    )
    assert settings.lanes == (("DEFAULT", 16), ("worker1", 0), ("elsewhere", 64))
    one, other = settings.groups
    assert (one.lanes, one.weights, one.max_wait) == (0, (), 300)
    assert (other.lanes, other.weights) == (16, (("acme", 3), ("Big Example Ltd", 1000)))


def test_every_option_of_the_daemons_is_typed(read):
    settings = read("""
[dispatcher]
instances: 2
window: 65535
max_types: 0
formats: application/cbor, text/csv
stop_timeout: 0
[workerpool]
user: a
worker_user: b
stop_timeout: 1.25
[logging]
level: DEBUG
format: json
destination: /var/log/taskqueue.log
""")
    assert settings.dispatcher == DispatcherSettings(2, 65535, 0, ("application/cbor", "text/csv"), 0.0)
    assert settings.workerpool == PoolSettings("a", "b", 1.25)
    assert settings.logging == LoggingSettings("debug", "json", "/var/log/taskqueue.log")


def test_settings_can_be_hashed_compared_and_pickled(read):
    settings = read("[amqp]\nhosts: a, b\n[worker1]\nx: 1\n")
    assert {settings: 1}[pickle.loads(pickle.dumps(settings))] == 1


def test_a_section_without_a_plugin_is_a_warning_and_no_group(read):
    settings = read("[digest]\nworkers: 2\n[digest_a]\n", ["b", "a"])
    assert groups(settings) == {"a": ("a", 1, None), "b": ("b", 1, None)}
    assert settings.warnings[0] == "section [digest]: no plugin 'digest' is installed; installed: a, b"
    assert read("[digest]\n", []).warnings == (
        "section [digest]: no plugin 'digest' is installed; installed: none",
    )


def test_the_subgroups_of_an_absent_plugin_are_not_warned_of_themselves(read):
    assert len(read("[digest]\nworkers: a, b\n[digest_a]\n[digest_b]\n").warnings) == 1


@pytest.mark.parametrize(
    ("written", "meant"), [("ampq", "amqp"), ("default", "DEFAULT"), ("woker1", "worker1")]
)
def test_a_misspelt_section_is_warned_of_with_the_nearest_name(read, written, meant):
    (warning,) = read(f"[{written}]\n").warnings
    assert warning.endswith(f"; is [{meant}] meant?")


def test_an_option_nearly_named_like_one_of_ours_is_passed_to_the_plugin_with_a_warning(read):
    settings = read(
        "[DEFAULT]\nreport_result: no\n[worker1]\nreslts_routing_key: x\nworkers: 1\n"
        "colour: red\n[no]\nuse: a\n"
    )
    own = {"report_result": "no", "reslts_routing_key": "x", "colour": "red"}
    assert dict(settings.groups[0].settings) == own
    passed = "is passed to the plugin; is"
    assert settings.warnings[1:] == (
        f"section [DEFAULT]: option 'report_result' {passed} report_results meant?",
        f"section [worker1]: option 'reslts_routing_key' {passed} results_routing_key meant?",
    )


@pytest.mark.parametrize(
    ("written", "meant"),
    [("retrys", "retries"), ("max_retries", "retries"), ("time_out", "timeout"), ("max_task", "max_tasks")],
)
def test_an_option_misspelt_by_more_than_a_letter_is_warned_of(read, written, meant):
    (warning,) = read(f"[worker1]\n{written}: 5\n").warnings
    assert warning == f"section [worker1]: option '{written}' is passed to the plugin; is {meant} meant?"


@pytest.mark.parametrize("name", ["path", "host", "colour", "database", "retry", "size"])
def test_an_option_of_a_plugins_own_is_not_warned_of(read, name):
    assert read(f"[worker1]\n{name}: 5\n").warnings == ()


def test_an_option_that_another_replaced_is_warned_of_with_that_name(read):
    (warning,) = read("[worker1]\ndepth: 5\n").warnings
    assert warning == "section [worker1]: option 'depth' is passed to the plugin; max_prefetch took its place"


def test_an_option_that_was_renamed_is_read_and_warned_of_once_for_each_section(read):
    settings = read("[DEFAULT]\nmax_depth: 7\n[worker1]\n[worker2]\nmax_depth: 8\nmax_prefetch: 9\n")
    assert [group.max_prefetch for group in settings.groups] == [7, 9, 7]  # of worker1 to worker3
    assert settings.warnings == (
        "section [DEFAULT]: option 'max_depth' is called max_prefetch now",
        "section [worker2]: option 'max_depth' is called max_prefetch now",
    )


def test_what_follows_a_header_on_its_line_is_warned_of_and_not_shown(read):
    settings = read(f"[worker1]workers: {SECRET}\n[worker2] ; two\n[worker3]\t# three\nx: y\n  [z] w\n")
    assert groups(settings)["worker1"] == ("worker1", 1, None)
    assert settings.warnings == (
        "section [worker1]: what follows it in line 1 is without effect: give each option a line of its own",
    )


def test_a_plugin_named_like_a_fixed_section_runs_with_the_defaults_and_a_warning(read):
    settings = read("[DEFAULT]\nworkers: 2\n[logging]\nlevel: error\n", ["logging"])
    assert groups(settings) == {"logging": ("logging", 2, None)}
    assert "plugin 'logging'" in settings.warnings[0]


def test_a_plugin_whose_name_cannot_be_a_worker_type_does_not_stop_the_others(read):
    settings = read("", ["worker1", "../x"])
    assert groups(settings) == {"worker1": ("worker1", 1, None)}
    assert settings.warnings == ("plugin '../x': the name cannot be a worker type; it is not run",)


@pytest.mark.parametrize(
    "line", [f"passwd: {SECRET}\nhost: a", f"password={SECRET}\nhost: a", f"url: amqp://u:{SECRET}@a"]
)
def test_a_password_that_others_can_read_is_warned_of(read, line):
    text = f"[amqp]\n{line}\n"
    (warning,) = read(text, mode=0o644).warnings
    assert "every user of this machine can read the password" in warning
    assert read(text, mode=0o640).warnings == ()
    assert read("[amqp]\nurl: amqp://u@a\n", mode=0o644).warnings == ()


def test_options_of_amqp_without_a_host_are_warned_of(read):
    settings = read("[amqp]\nuser: a\nvhost: b\n")
    assert settings.amqp is None
    assert settings.warnings == (
        "section [amqp]: user, vhost without effect: there is no url, host or hosts",
    )


@pytest.mark.parametrize(
    ("mode", "database", "is_warned"),
    [
        (0o644, "postgresql://tq:secret@db/record", True),
        (0o640, "postgresql://tq:secret@db/record", False),
        (0o644, "postgresql://tq@db/record", False),
    ],
)
def test_a_database_password_that_every_user_can_read_is_warned_about(tmp_path, mode, database, is_warned):
    path = tmp_path / "config.ini"
    path.write_text(f"[monitor]\ndatabase: {database}\n")
    path.chmod(mode)
    warning = "section [monitor]: every user of this machine can read the password (mode o+r)"
    assert (warning in load(str(path), [], as_root=False).warnings) is is_warned
