"""Plugins as distributions on the modules' path; what imports them is a process of its own."""

import sys

import pytest
from support.distribution import install

from taskqueue import plugins
from taskqueue.errors import PluginError
from taskqueue.plugins import Plugin

GROUP = "tests.plugins"  # so that what is installed on the machine is out of the way

MODULE = """
class Good:
    pass
class Better:
    pass
other = 7
"""


@pytest.fixture
def site(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "trial_plugin.py").write_text(MODULE)
    (tmp_path / "trial_raises.py").write_text("raise ValueError('not today')")
    (tmp_path / "trial_exits.py").write_text("raise SystemExit(0)")
    (tmp_path / "trial_wrong.py").write_text("def (:")
    return tmp_path


@pytest.fixture
def load(forked):
    """Load a plugin in a process of its own; return what that prints: the object, or why not."""

    def load(name):
        def run():
            try:
                print(plugins.load(name, GROUP))
            except PluginError as error:
                print(f"PluginError: {error}")

        child = forked(run)
        assert child.wait() == 0, child.output()
        return child.output().strip()

    return load


def test_plugins_are_listed_by_name_with_where_they_come_from(site):
    install(site, "some-plugins", {"b": "missing_module:B.factory", "a": "missing_module:A"}, GROUP)
    install(site, "more", {"c": "missing_module:C"}, GROUP, "2.5")
    assert plugins.installed(GROUP) == (
        Plugin("a", "missing_module:A", "some-plugins", "1.0"),
        Plugin("b", "missing_module:B.factory", "some-plugins", "1.0"),
        Plugin("c", "missing_module:C", "more", "2.5"),
    )


def test_nothing_is_imported_for_the_list(site):
    install(site, "trial", {"raises": "trial_raises:x", "good": "trial_plugin:Good"}, GROUP)
    assert len(plugins.installed(GROUP)) == 2
    assert not {"trial_raises", "trial_plugin"} & set(sys.modules)


def test_other_groups_are_not_listed(site):
    install(site, "trial", {"a": "x:y"}, "other.plugins")
    assert plugins.installed(GROUP) == ()


def test_distributions_that_were_half_removed_are_listed_without_their_names(site):
    for name, entry_points in [("trial", {"a": "x:y"}), ("second", {"b": "x:y"})]:
        install(site, name, entry_points, GROUP)
        (site / f"{name}-1.0.dist-info" / "METADATA").unlink()
    assert plugins.installed(GROUP) == (Plugin("a", "x:y", "", ""), Plugin("b", "x:y", "", ""))


def test_metadata_is_read_wherever_a_distribution_keeps_it(site):
    install(site, "trial", {"a": "x:y"}, GROUP, version="2.5")
    info = site / "trial-2.5.dist-info"
    (info / "METADATA").rename(info / "PKG-INFO")
    assert plugins.installed(GROUP) == (Plugin("a", "x:y", "trial", "2.5"),)


def test_what_is_installed_later_is_found(site):
    assert plugins.installed(GROUP) == ()
    install(site, "trial", {"a": "x:y"}, GROUP)
    assert [plugin.name for plugin in plugins.installed(GROUP)] == ["a"]


def test_a_plugin_is_loaded(site, load):
    install(site, "trial", {"good": "trial_plugin:Good"}, GROUP)
    assert load("good") == "<class 'trial_plugin.Good'>"


def test_an_entry_point_that_changed_a_moment_ago_is_loaded_as_it_is_now(site, load):
    install(site, "trial", {"good": "trial_plugin:Good"}, GROUP)
    load("good")
    install(site, "trial", {"good": "trial_plugin:other"}, GROUP)
    assert load("good") == "7"
    install(site, "trial", {"renamed": "trial_plugin:other"}, GROUP)
    assert load("renamed") == "7"


def test_a_plugin_that_is_not_installed_is_an_error_that_names_those_that_are(site, load):
    assert load("a") == "PluginError: no plugin 'a' is installed under tests.plugins; installed: none"
    install(site, "trial", {"b": "x:y", "c": "x:y"}, GROUP)
    assert load("a").endswith("installed: b, c")


def test_a_plugin_of_two_distributions_is_an_error_that_names_both(site, load):
    install(site, "one", {"a": "trial_plugin:Good"}, GROUP)
    install(site, "two", {"a": "trial_plugin:Better"}, GROUP, "2.0")
    assert load("a") == "PluginError: several distributions install a plugin 'a': one 1.0, two 2.0"
    assert [plugin.distribution for plugin in plugins.installed(GROUP)] == ["one", "two"]


@pytest.mark.parametrize(
    ("target", "complaint"),
    [
        ("missing_module:x", "ModuleNotFoundError: No module named 'missing_module'"),
        ("trial_plugin:Missing", "AttributeError: module 'trial_plugin' has no attribute 'Missing'"),
        ("trial_raises:x", "ValueError: not today"),
        ("trial_exits:x", "SystemExit: 0"),
        ("trial_wrong:x", "SyntaxError: "),
    ],
)
def test_a_plugin_that_cannot_be_imported_is_an_error_with_the_cause(site, load, target, complaint):
    install(site, "trial", {"a": target}, GROUP)
    assert load("a").startswith(f"PluginError: plugin 'a' cannot be imported: {complaint}")
