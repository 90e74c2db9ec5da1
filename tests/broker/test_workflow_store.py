"""Results of several MiB, which pass from step to step through a store."""

import asyncio
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from support.documentation import example, values
from support.ground import Ground, open_directory

from taskqueue import Client, DirectoryStore, Extend, Run, StoreFailed, Workflow, chain

TASKS = """
import hashlib

from taskqueue import Extend, task


@task
def texts(count, times=30_000):
    return [f"{number:05}" * times for number in range(count)]


@task
def repeat(text, times):
    return text * times


@task
def hashed(parts, *others):
    return hashlib.sha256("".join([*parts, *others]).encode()).hexdigest()


@task
def more(count):
    extend = Extend(result=texts.function(count))
    extend.add("hashed", ["a"])
    return extend
"""
TEXTS = [f"{number:05}" * 30_000 for number in range(20)]  # 3 MB
REPEATED = [text * 10 for text in TEXTS]  # 30 MB, 1.5 MB each


def flow_on(ground: Ground) -> None:
    dispatcher = ground.start("dispatcher", f"[flow]\ndatabase: {ground.open}/flow.db\n")
    dispatcher.wait_for("flow process keeps workflows of 4 shards of 4", timeout=30)


def large(client: Client) -> Run:
    """Start a workflow with a map of a large list, and a join of large results."""
    flow = Workflow("large")
    first = flow.add("texts", 20)
    parts = flow.map("repeat", first.result, 10)
    flow.add("hashed", parts.results, "end")
    return client.start(flow)


def sha256(*texts: str) -> str:
    return hashlib.sha256("".join(texts).encode()).hexdigest()


@pytest.fixture(scope="module")
def flowing(shared: Ground) -> Ground:
    path = shared.directory / "big.py"
    path.write_text(TASKS)
    shared.work_anew(path, "-n", "2", "--result-store", str(shared.directory / "results"))
    flow_on(shared)
    return shared


@pytest.fixture
def store(flowing: Ground) -> DirectoryStore:
    return DirectoryStore(flowing.directory / "results")


@pytest.fixture
def client(flowing: Ground) -> Iterator[Client]:
    with Client(flowing.url) as client:
        yield client


def test_large_results_pass_through_a_map_and_a_join(client: Client, flowing: Ground) -> None:
    run = large(client)
    assert run.result(timeout=120) == sha256(*REPEATED, "end")
    files = list((flowing.directory / "results").iterdir())
    assert sum(each.stat().st_size for each in files) > 30_000_000
    assert {each.stat().st_mode & 0o777 for each in files} == {0o640}
    flow = sum(each.stat().st_size for each in flowing.open.glob("flow.db*"))
    assert flow < 10_000_000


def test_a_program_reads_a_large_result_from_the_store(client: Client, store: DirectoryStore) -> None:
    run = client.start(chain(("texts", 20)))
    with pytest.raises(StoreFailed, match=r"has 3,000,\d+ bytes and is kept in a store: give it"):
        run.result(timeout=60)
    assert run.result(store=store) == TEXTS
    with pytest.raises(StoreFailed, match="there is no result"):
        run.result(store=DirectoryStore(store._path.parent))


def test_a_large_result_of_a_step_that_adds_others_is_passed_on(client: Client, store) -> None:
    flow = Workflow("more")
    flow.add("hashed", flow.add("more", 20).result, step="last")
    run = client.start(flow)
    assert run.wait(60).state == "succeeded"
    assert run.result("last") == sha256(*TEXTS)
    assert run.result("more", store=store) == TEXTS


def test_a_result_that_was_removed_fails_the_step_that_needs_it(client: Client, flowing: Ground) -> None:
    flow = Workflow("late")
    first = flow.add("texts", 20)
    run = client.start(flow)
    assert run.wait(60).state == "succeeded"
    for each in (flowing.directory / "results").iterdir():
        each.unlink()
    more = Extend()
    more.add("hashed", first.result)
    run.extend(more)
    run.wait(60)
    (error,) = [each["error"] for each in run.steps() if each["error"]]
    assert error["type"] == "StoreFailed"
    assert "it may have been removed" in error["message"]


def test_the_page_says_how_to_read_a_large_result(client: Client, store: DirectoryStore) -> None:
    run = client.start(chain(("texts", 20)))
    text = example("docs/workflows.md", "# a large result").replace(
        "/var/lib/taskqueue/results", str(store._path)
    )
    (found,) = asyncio.run(values(text, {"run": run})).values()
    assert found == TEXTS


# --- pools ---


class Shelf(BaseHTTPRequestHandler):
    """Keeps what is put, and returns it."""

    kept: dict[str, bytes]

    def do_PUT(self) -> None:
        self.kept[self.path] = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(201)
        self.end_headers()

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.kept[self.path])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def shelf() -> Iterator[ThreadingHTTPServer]:
    Shelf.kept = {}
    with ThreadingHTTPServer(("127.0.0.1", 0), Shelf) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def installed(ground: Ground) -> Ground:
    """A ground where the tasks and the store of the page are installed."""
    directory = open_directory(ground.directory / "installed")
    (directory / "big.py").write_text(TASKS)
    (directory / "http_store.py").write_text(example("docs/workflows.md", "# http_store.py"))
    metadata = directory / "large-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: large\nVersion: 1.0\n")
    group, entry = example("docs/workflows.md", '[project.entry-points."taskqueue.stores"]').splitlines()
    assert group == '[project.entry-points."taskqueue.stores"]'
    points = f"[taskqueue.stores]\n{entry.replace(chr(34), '')}\n[taskqueue.tasks]\nbig = big\n"
    (metadata / "entry_points.txt").write_text(points)
    ground.environment = {**ground.environment, "PYTHONPATH": str(directory)}
    return ground


def test_the_store_of_a_plugin_is_used_as_the_page_says(installed: Ground, shelf) -> None:
    flow_on(installed)
    options = f"result_store: http\nstore_url: http://127.0.0.1:{shelf.server_port}/results\n"
    installed.start("workerpool", f"[DEFAULT]\n{options}workers: 0\n[big]\nworkers: 2\n", ready="takes work")
    with Client(installed.url) as client:
        assert large(client).result(timeout=120) == sha256(*REPEATED, "end")
    assert len(Shelf.kept) == 21
    assert all(path.startswith("/results/") for path in Shelf.kept)


MEASURE = """#!/usr/bin/python3
import json, os, sys
sys.stdout = os.fdopen(4, "w", 1)
for line in os.fdopen(3):
    item = json.loads(line)
    print(json.dumps({"id": item["id"], "status": "succeeded", "result": len(item["body"])}))
"""


def test_commands_get_large_results_as_bodies(installed: Ground) -> None:
    flow_on(installed)
    program = installed.directory / "measure"
    program.write_text(MEASURE)
    program.chmod(0o755)
    pool = installed.start(
        "workerpool",
        f"[DEFAULT]\nresult_store: {installed.open}/results\nworkers: 0\n[big]\nworkers: 1\n"
        f"[measure]\nworkers: 1\ncommand: {program}\nmode: stream\n"
        "[sum]\nworkers: 1\ncommand: /usr/bin/sha256sum\n",
        ready="takes work",
    )
    pool.wait_for("takes work", times=3)
    flow = Workflow("commands")
    first = flow.add("texts", 150, 4000)
    whole = flow.add("sum", body=first.result)
    sizes = flow.map("measure", first.result, is_body=True)
    with Client(installed.url) as client:
        run = client.start(flow)
        assert run.wait(120).state == "succeeded"
        text = json.dumps([f"{number:05}" * 4000 for number in range(150)], separators=(",", ":"))
        assert run.result(whole).split()[0] == sha256(text)
        assert run.result(sizes.name) == [20_000] * 150
    assert len(list((installed.open / "results").iterdir())) == 1


def test_a_pool_keeps_large_results_in_the_directory_of_the_page(installed: Ground) -> None:
    flow_on(installed)
    results = installed.open / "results"
    config = example("docs/workflows.md", "result_store: /").replace(
        "/var/lib/taskqueue/results", str(results)
    )
    installed.start("workerpool", f"{config}workers: 0\n[big]\nworkers: 2\n", ready="takes work")
    with Client(installed.url) as client:
        assert large(client).result(timeout=120) == sha256(*REPEATED, "end")
    assert len(list(results.iterdir())) == 21


def test_a_worker_whose_store_is_not_installed_says_so_and_takes_no_work(installed: Ground) -> None:
    ready = "no plugin 'nothing' is installed under taskqueue.stores; installed: http"
    installed.start("workerpool", "[DEFAULT]\nresult_store: nothing\n[big]\nworkers: 1\n", ready=ready)
