"""Numbers of workers that commands set: which one is in force."""

from types import SimpleNamespace

import pytest

from taskqueue.config import GroupSettings
from taskqueue.control.directives import Directives
from taskqueue.control.directives import Size as Standing
from taskqueue.errors import LimitReached
from taskqueue.supervisor.members import Blueprint
from taskqueue.supervisor.sizes import Size, Sizes


def blueprints(**workers):
    """Return a blueprint for each group; a group's type is its name up to an underscore."""
    return tuple(
        Blueprint(GroupSettings(name, name.partition("_")[0], number), SimpleNamespace(), None)
        for name, number in workers.items()
    )


def numbers(sizes, plan, most=100):
    return {each.settings.name: each.settings.workers for each in sizes.apply(plan, most)}


def anything(_blueprints):
    pass


PLAN = blueprints(digest=2, idle=0, resize_a=1, resize_b=1)
OWN = {"digest": 2, "resize_a": 1, "resize_b": 1}


def test_without_commands_the_configuration_counts():
    assert numbers(Sizes(anything), PLAN) == OWN


def test_the_last_command_counts_and_a_reload_leaves_the_kept_ones():
    sizes = Sizes(anything)
    assert sizes.keep({"digest": Size(5, is_own=False)}, PLAN)
    assert not sizes.keep({"digest": Size(5, is_own=False)}, PLAN)
    assert numbers(sizes, PLAN) == OWN | {"digest": 5}
    assert sizes.give("digest", Size(3, is_own=False), PLAN, 100) == ""
    assert numbers(sizes, PLAN) == OWN | {"digest": 3}
    sizes.reload()
    assert numbers(sizes, PLAN) == OWN | {"digest": 5}
    sizes.give("digest", Size(3, is_own=False), PLAN, 100)
    sizes.keep({"digest": Size(6, is_own=False)}, PLAN)
    assert numbers(sizes, PLAN) == OWN | {"digest": 6}
    sizes.keep({}, PLAN)
    assert numbers(sizes, PLAN) == OWN


def test_a_group_without_workers_gets_some_only_by_its_hosts_own_number():
    sizes = Sizes(anything)
    sizes.keep({"idle": Size(5, is_own=False)}, PLAN)
    sizes.give("idle", Size(5, is_own=False), PLAN, 100)
    assert numbers(sizes, PLAN) == OWN
    sizes.keep({"idle": Size(5, is_own=True)}, PLAN)
    assert numbers(sizes, PLAN) == OWN | {"idle": 5}
    sizes.give("idle", None, PLAN, 100)
    assert numbers(sizes, PLAN) == OWN | {"idle": 5}


def test_a_type_names_its_only_group():
    sizes, plan = Sizes(anything), blueprints(digest_a=1)
    assert sizes.give("digest", Size(2, is_own=False), plan, 100) == ""
    assert numbers(sizes, plan) == {"digest_a": 2}
    assert sizes.give("digest", Size(0, is_own=False), plan, 100) == ""
    assert numbers(sizes, plan) == {}
    assert [each.settings.name for each in sizes.emptied(plan)] == ["digest_a"]
    assert "name one of them: resize_a, resize_b" in sizes.give("resize", Size(2, is_own=False), PLAN, 100)
    assert sizes.give("unknown", Size(2, is_own=False), PLAN, 100) == ""


def test_a_number_that_is_too_high_is_refused_and_others_stay_in_force():
    def few_files(wanted):
        if any(each.settings.workers > 50 for each in wanted):
            raise LimitReached("too many open files")

    sizes = Sizes(few_files)
    assert sizes.give("digest", Size(9, is_own=False), PLAN, 10) == (
        "all groups would have 11 workers, and max_total_workers is 10"
    )
    assert sizes.give("digest", Size(51, is_own=False), PLAN, 100) == "too many open files"
    assert numbers(sizes, PLAN) == OWN
    sizes.keep({"digest": Size(51, is_own=False), "resize_a": Size(3, is_own=False)}, PLAN)
    assert numbers(sizes, PLAN) == OWN | {"resize_a": 3}
    assert sizes.faults == ["group digest cannot have 51 workers: too many open files"]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_configuration_above_the_maximum_can_be_made_smaller(workers):
    sizes = Sizes(anything)
    assert sizes.give("digest", Size(workers, is_own=False), PLAN, 1) == ""
    assert sum(numbers(sizes, PLAN, 1).values()) == 2 + workers


def test_standing_numbers_of_a_host_win_over_those_of_all():
    two, three = Standing(2, "root@web1", 0.0), Standing(3, "root@web1", 0.0)
    found = Directives().with_size("digest", "", two).with_size("digest", "web1", three)
    assert found.sizes_of("web1") == {"digest": (3, True)}
    assert found.sizes_of("web2") == {"digest": (2, False)}
    assert Directives.of_json(found.as_json()) == found
    assert found.without_host("web1").sizes_of("web1") == {"digest": (2, False)}
    assert found.with_size("digest", "web1", None).sizes_of("web1") == {"digest": (2, False)}
    assert found.with_size("digest", "", None).sizes == {}
    assert found.with_size("digest", "", three).sizes == {"digest": three}
