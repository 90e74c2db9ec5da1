"""Which worker types the supervisor grants."""

import pytest

from taskqueue.supervisor.members import Grants


@pytest.fixture
def grants():
    grants = Grants()
    grants.plan(["digest", "thumbnail", "tasks"])
    return grants


def test_a_worker_plugin_may_serve_its_own_worker_type_and_no_other(grants):
    assert grants.claim("digest", ["digest"], has_tasks=False) == ""
    assert "may serve worker type 'digest' only" in grants.claim("digest", ["other"], has_tasks=False)
    assert "may serve worker type 'digest' only" in grants.claim("digest", [], has_tasks=False)


def test_a_module_of_tasks_gets_every_name_that_no_plugin_has(grants):
    assert grants.claim("tasks", ["add", "tasks"], has_tasks=True) == ""
    refusal = grants.claim("tasks", ["add", "digest"], has_tasks=True)
    assert refusal == "it may not serve worker type 'digest', which belongs to plugin 'digest'"


def test_of_two_modules_with_a_task_of_the_same_name_the_first_keeps_it(grants):
    grants.plan(["one", "two"])
    assert grants.claim("one", ["add"], has_tasks=True) == ""
    assert "which belongs to plugin 'one'" in grants.claim("two", ["mul", "add"], has_tasks=True)
    assert grants.claim("one", ["mul"], has_tasks=True) == ""  # nothing of a refused claim is kept


def test_the_names_of_a_module_that_is_gone_are_free(grants):
    assert grants.claim("tasks", ["add"], has_tasks=True) == ""
    grants.plan(["others"])
    assert grants.claim("others", ["add", "tasks"], has_tasks=True) == ""


def test_what_was_granted_stays_so_when_the_same_plugins_are_planned_again(grants):
    assert grants.claim("tasks", ["add"], has_tasks=True) == ""
    grants.plan(["digest", "tasks"])
    assert "which belongs to plugin 'tasks'" in grants.claim("digest", ["add"], has_tasks=True)
