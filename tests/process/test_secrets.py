"""The broker's password is where it must be, and nobody who looks at a process sees it."""

import json
from urllib.parse import urlsplit

import pytest
from support.memory import memory
from support.processes import command, environment, tree
from support.site import workers


def assert_hidden(daemon, password):
    for pid in tree(daemon.pid):
        assert password not in command(pid)
        assert password not in environment(pid)
        assert "TASKQUEUE_AMQP" not in environment(pid)
    assert password not in daemon.output()


@pytest.mark.parametrize("way", ["file", "environment", "option"])
@pytest.mark.parametrize("name", ["workerpool", "dispatcher", "up"])
def test_no_process_shows_the_password(site, work, name, way):
    password = urlsplit(site.url).password
    site.configure("[whoami]\nworkers: 1", url=None if way == "file" else "")
    arguments = [name, "-c", str(site.config), *(["-f"] if name != "up" else [])]
    arguments += ["--amqp", site.url] if way == "option" else []
    daemon = site.start(*arguments, **({"TASKQUEUE_AMQP": site.url} if way == "environment" else {}))
    daemon.wait_for("ready: ")
    daemon.wait_for("takes work")
    assert len(tree(daemon.pid)) > 1
    assert_hidden(daemon, password)
    if name != "dispatcher":
        assert password not in json.dumps(work.ask("whoami"))
    assert daemon.stop() == 0


@pytest.mark.parametrize("way", ["file", "environment"])
def test_the_password_is_not_in_the_memory_of_supervisor_and_workers(site, work, way):
    password = urlsplit(site.url).password.encode()
    site.configure("[whoami]\nworkers: 1", url=None if way == "file" else "")
    env = {"TASKQUEUE_AMQP": site.url} if way == "environment" else {}
    pool = site.start("workerpool", "-f", "-c", str(site.config), **env)
    pool.wait_for("takes work")
    work.ask("whoami")
    for pid in (pool.pid, *workers(pool)):
        assert password not in memory(pid)
