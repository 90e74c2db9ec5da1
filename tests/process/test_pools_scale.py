"""Numbers of workers that administrators set: taskqueue scale."""

import json
import signal

import pytest
from support.documentation import commands, example
from support.hosts import hosts
from support.site import AS_ROOT
from support.waiting import wait_until

pytestmark = pytest.mark.skipif(not AS_ROOT, reason="only root can give processes another host's name")

__all__ = ["hosts"]


def sizes(hosts, group="good"):
    """Return the number of workers of a group on each host that has it, without processes that end."""
    found = {}
    for pool in hosts.ask().pools:
        for each in pool["groups"]:
            if each["group"] == group and not each["ends"]:
                found[pool["host"]] = len(each["workers"])
    return found


def test_a_number_of_workers_holds_until_a_reload_and_what_runs_finishes(hosts, work):
    site = hosts.site
    pool = hosts.pool("web1", "[good]\nworkers: 1\n[gated]\nworkers: 1")
    hosts.pool("web2", "[good]\nworkers: 1")
    running = work.submit("gated", {"gate": str(site.gate())})
    site.wait_for_run(running)
    assert hosts.run("scale", "gated", "0") == "web1: gated has 0 workers.\n"  # web2 had none before
    assert "works on workitem1 of gated" in hosts.run("ps")
    waiting = work.submit("gated", {"gate": str(site.gate())})
    site.gate().touch()
    assert work.result().workitem == running
    assert hosts.run("scale", "good", "3", "--host", "web1") == "web1: good has 3 workers.\n"
    assert sizes(hosts) == {"web1": 3, "web2": 1}
    assert hosts.run("scale", "good", "2") == "web1: good has 2 workers.\nweb2: good has 2 workers.\n"
    assert hosts.run("scale", "nothing", "2", status=1) == "taskqueue: no pool has a group nothing\n"
    assert len(site.notes()) == 2

    site.configure("[good]\nworkers: 1\n[gated]\nworkers: 1")
    pool.signal(signal.SIGHUP)
    assert work.result().workitem == waiting
    wait_until(lambda: sizes(hosts) == {"web1": 1, "web2": 2})


def test_a_kept_number_wins_over_the_configuration_after_a_restart_until_it_is_taken_back(hosts, work):
    pool = hosts.pool("web1", "[good]\nworkers: 1\n[gated]\nworkers: 1")
    assert hosts.run("scale", "good", "2", "--keep") == "web1: good has 2 workers.\n"
    assert hosts.run("scale", "good", "3", "--keep", "--host", "web1") == "web1: good has 3 workers.\n"
    assert "no pool with a control key has run on host 'web2'" in hosts.run(
        "scale", "good", "3", "--keep", "--host", "web2", status=1
    )
    shown = hosts.run("ps")
    assert "good is kept at 2 workers, by " in shown
    assert "good is kept at 3 workers on web1, by " in shown
    effective = hosts.run("config")
    assert "\nStanding commands, which win over the file:\n  good is kept at 2 workers, by " in effective
    assert "\n  good is kept at 3 workers on web1, by " in effective
    hosts.pool("web2")
    wait_until(lambda: sizes(hosts) == {"web1": 3, "web2": 2})
    pool.signal(signal.SIGHUP)
    pool.wait_for("reloaded: 4 workers in 2 groups")
    assert pool.stop() == 0
    kept = json.loads(hosts.run("config", "--format", "json"))["standing"]["sizes"]
    assert {name: each["workers"] for name, each in kept.items()} == {"good": 2, "web1/good": 3}
    hosts.pool("web1")
    wait_until(lambda: sizes(hosts) == {"web1": 3, "web2": 2})
    hosts.run("scale", "good", "config", "--keep")
    assert sizes(hosts) == {"web1": 1, "web2": 1}
    work.ask("good")
    assert "is kept at" not in hosts.run("ps")
    assert hosts.run("config").endswith("\nNo standing commands.\n")


def test_too_many_workers_are_refused_with_the_reason_and_the_rest_stays(hosts, work):
    halves = "[whoami]\nworkers: a, b\n[whoami_a]\nworkers: 1\n[whoami_b]\nworkers: 1\n"
    pool = hosts.pool("web1", f"{halves}[good]\nworkers: 1")
    few = "web1: all groups would have 10002 workers, and max_total_workers is 1000\n"
    assert hosts.run("scale", "good", "10000", status=1).endswith(few)
    assert "from 0 to 100000, found '100001'" in hosts.run("scale", "good", "100001", status=2)
    several = "web1: worker type whoami has several groups, name one of them: whoami_a, whoami_b\n"
    assert hosts.run("scale", "whoami", "2", status=1).endswith(several)
    assert hosts.run("scale", "whoami_a", "2") == "web1: whoami_a has 2 workers.\n"
    total = "all groups would have 10003 workers, and max_total_workers is 1000\n"
    fault = f"web1: group good cannot have 10000 workers: {total}"
    assert hosts.run("scale", "good", "10000", "--keep", status=1).endswith(fault)
    assert sizes(hosts) == {"web1": 1}
    pool.wait_for("ERROR workerpool: group good cannot have 10000 workers: ")
    work.ask("good")
    assert hosts.run("scale", "good", "config", "--keep") == "web1: good has 1 worker.\n"


def test_documented_commands_change_numbers(hosts):
    hosts.pool("web1", "[good]\nworkers: 1")
    page = example("docs/operations.md", "taskqueue scale")
    ran = [hosts.run(*line.replace("digest", "good").split()[1:]) for line in commands(page)]
    assert ran == ["web1: good has 6 workers.\n", "web1: good has 4 workers.\n", "web1: good has 1 worker.\n"]
