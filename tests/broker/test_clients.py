"""Clients of other languages submit workitems with their libraries' defaults, and get the results."""

import json
import re
from pathlib import Path

import pytest
from support.clients import CLIENTS, ROOT, Client
from support.ground import Ground

BODY = '{"worker_type": "echo", "workitem": {"number": 1.5, "text": "grüß"}}'
CONFIG = "[DEFAULT]\nworkers: 0\n[echo]\nworkers: 1\n"


@pytest.fixture(params=CLIENTS, ids=[each.name for each in CLIENTS])
def client(request: pytest.FixtureRequest) -> Client:
    """Each client library that is installed."""
    found: Client = request.param
    found.require()
    return found


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of programs that must be built."""
    return tmp_path_factory.mktemp("clients")


@pytest.fixture
def waiting(ground: Ground) -> Ground:
    """A ground where nobody works, so that a message stays as its producer published it."""
    for queue in ("taskqueue", "results"):
        ground.foreign.declare(queue)
    return ground


@pytest.fixture(scope="module")
def working(shared: Ground) -> Ground:
    """A ground with a dispatcher and a pool."""
    shared.start("dispatcher")
    shared.start("workerpool", CONFIG)
    return shared


def documented(name: str) -> dict[str, str]:
    """Return what docs/protocol.md says of a client's defaults, by the heads of the table's columns."""
    page = (ROOT / "docs" / "protocol.md").read_text()
    rows = [
        re.findall(r"[^|]+", line) for line in page.partition("## Clients")[2].splitlines() if "|" in line
    ]
    head, _, *body = [[cell.strip(" `") for cell in row] for row in rows]
    (found,) = (row for row in body if row[0].partition(" ")[0] == name)
    return dict(zip(head, found, strict=True))


def test_the_defaults_of_each_client_are_documented(waiting: Ground, client: Client, built: Path) -> None:
    process = client.start(built, waiting.url, BODY, "results")
    message = waiting.foreign.get("taskqueue", 60)
    waiting.foreign.publish("done", "results")
    assert process.communicate(timeout=60)[0].strip() == "done"
    said = documented(client.name)
    for field in ("content_type", "content_encoding", "delivery_mode", "priority"):
        assert str(message.properties.get(field, "none")) == said[field].split("`")[0], field


@pytest.mark.parametrize("mode", ["reply", "results"])
def test_each_client_gets_the_result_of_what_it_publishes_by_default(
    working: Ground, client: Client, built: Path, mode: str
) -> None:
    process = client.start(built, working.url, BODY, mode)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    assert json.loads(output) == {"number": 1.5, "text": "grüß"}
    assert working.foreign.depth("taskqueue_rejected") in (0, None)
