"""docs/prometheus: alert rules and a dashboard that name metrics that there are, checked by promtool."""

import json
import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from support.recorded import CONSUMER, ENDED, batch, write_record
from support.web import Web

from taskqueue.messages.events import Ended
from taskqueue.monitor.store.store import Store
from taskqueue.monitor.web import users

DOCS = Path(__file__).parents[2] / "docs" / "prometheus"
TOKEN = users.new_secret()


@pytest.fixture
def promtool():
    """Run promtool, which comes with Debian's prometheus; return what it prints."""
    if shutil.which("promtool") is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("prometheus is not installed")

    def run(*arguments, text=""):
        done = subprocess.run(
            ["promtool", *arguments], input=text, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    return run


@pytest.fixture
def exposition(daemon, tmp_path):
    """The metrics of a record in which something has ended, was retried or has crashed."""
    write_record(tmp_path / "record")
    web = Web(daemon, tmp_path / "record", TOKEN)
    now = time.time()
    with Store(tmp_path / "record") as store:
        ended = Ended("m1", "digest", 1, "failed", "retrying", now, now - 2, again_at=now + 1)
        crashed = Ended("m2", "digest", 1, "crashed", "failed", now, now - 2, error="killed by SIGSEGV")
        store.write([(3, batch(CONSUMER, len(ENDED), [ended, crashed]))])
    return web.get("/metrics").body.decode()


def test_the_alert_rules_are_valid(promtool):
    assert "8 rules found" in promtool("check", "rules", str(DOCS / "alerts.yml"))


def test_the_metrics_follow_the_rules_of_prometheus(promtool, exposition):
    assert promtool("check", "metrics", text=exposition) == ""


def test_rules_and_dashboard_name_no_other_metrics(exposition):
    offered = set(re.findall(r"^(taskqueue_\w+?)(?:\{| )", exposition, re.MULTILINE))
    dashboard = json.loads((DOCS / "grafana-dashboard.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    queries.append((DOCS / "alerts.yml").read_text())
    used = {name for query in queries for name in re.findall(r"\btaskqueue_[a-z_]+\b", query)}
    assert used <= offered, used - offered
    assert len(used) > 10
