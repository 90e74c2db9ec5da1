"""Large results of steps: what a store keeps, and to whom a worker gives it."""

import hashlib
import json
import os
import resource
import signal
import time
from pathlib import Path

import pytest
from support.flows import Mill, step

from taskqueue import DirectoryStore, ResultStore, StoreFailed
from taskqueue.amqp.properties import Properties
from taskqueue.errors import PluginError
from taskqueue.flow.store import SqliteStore
from taskqueue.messages.workitem import Workitem
from taskqueue.worker.passing import StepResults
from taskqueue.worker.store import open_store
from taskqueue.workflows.stored import Stored

NAME = "0123456789abcdef" * 2
COUNT = 1200
LARGE = [f"{number} {'ä' * 1000}" for number in range(COUNT)]


def item(body: bytes, **headers: object) -> Workitem:
    plain = Properties(content_type="application/json", message_id="a").with_headers(headers)
    return Workitem("work", 1, plain.encode(), body)


def of_step(body: bytes = b"{}") -> Workitem:
    return item(body, **{"x-taskqueue-workflow": "0" * 32})


@pytest.fixture
def store(tmp_path: Path) -> DirectoryStore:
    return DirectoryStore(tmp_path / "results", keep=3600)


def kept(store: DirectoryStore, value: object) -> str:
    """Return the reference to a value that a worker has kept, as JSON."""
    return StepResults(store).kept(of_step(), "application/json", json.dumps(value).encode())[1].decode()


# --- a directory ---


def test_a_file_of_a_directory_is_read_by_its_group_and_by_nobody_else(tmp_path: Path) -> None:
    shared = tmp_path / "results"
    shared.mkdir()
    shared.chmod(0o3770)
    group = 65534 if os.geteuid() == 0 else os.getgid()
    os.chown(shared, -1, group)
    shared.chmod(0o3770)
    before = os.umask(0o077)
    try:
        DirectoryStore(shared).put(NAME, b"data")
    finally:
        os.umask(before)
    (path,) = shared.iterdir()
    assert (path.name, path.read_bytes(), path.stat().st_mode & 0o7777) == (NAME, b"data", 0o640)
    assert path.stat().st_gid == group


def test_a_missing_directory_is_made_for_its_user_alone(tmp_path: Path) -> None:
    DirectoryStore(tmp_path / "results")
    assert (tmp_path / "results").stat().st_mode & 0o7777 == 0o700
    with pytest.raises(PluginError, match="store '/proc/nowhere/results' cannot be used"):
        open_store("/proc/nowhere/results", 0, {})


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path: Path, store: DirectoryStore) -> None:
    store.put(NAME, b"first")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(StoreFailed, match="File too large"):
            store.put(NAME[::-1], b"second" * 100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert [each.name for each in (tmp_path / "results").iterdir()] == [NAME]
    assert store.get(NAME) == b"first"
    with pytest.raises(StoreFailed, match="there is no result"):
        store.get(NAME[::-1])


def test_a_link_in_the_directory_is_not_followed(tmp_path: Path, store: DirectoryStore) -> None:
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "results" / NAME).symlink_to(tmp_path / "secret")
    with pytest.raises(StoreFailed):
        store.get(NAME)


def test_a_file_that_is_larger_than_any_result_is_not_read(tmp_path: Path, store: DirectoryStore) -> None:
    """A reference says what it likes about the size of what another user of the directory has put there."""
    with (tmp_path / "results" / NAME).open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(StoreFailed, match="has 1,099,511,627,776 bytes"):
        store.get(NAME)


def test_old_files_are_removed_and_others_stay(tmp_path: Path, store: DirectoryStore) -> None:
    names = ["1" * 32, f".{'2' * 32}", "3" * 32, "README"]
    for name in names:
        path = tmp_path / "results" / name
        path.write_text("")
        age = 10 if name == "3" * 32 else 4000
        os.utime(path, (time.time() - age,) * 2)
    store.put(NAME, b"new")
    assert sorted(each.name for each in (tmp_path / "results").iterdir()) == sorted(
        [NAME, "3" * 32, "README"]
    )


def test_a_store_of_an_unknown_plugin_is_a_fault() -> None:
    with pytest.raises(PluginError, match=r"no plugin 'nothing' is installed under taskqueue\.stores"):
        open_store("nothing", 0, {})
    assert open_store(None, 0, {}) is None


# --- results and arguments ---


def test_a_large_result_is_kept_and_comes_back_as_it_was(store: DirectoryStore) -> None:
    reference = kept(store, {"jsonrpc": "2.0", "id": "a", "result": LARGE})
    stored = Stored.of_text(reference)
    assert stored is not None
    assert (stored.count, stored.size) == (COUNT, len(json.dumps(LARGE, separators=(",", ":"))))
    assert stored.sha256 == hashlib.sha256(store.get(stored.name)).hexdigest()
    body = f'{{"jsonrpc":"2.0","params":[{reference},1,{reference}]}}'.encode()
    filled = StepResults(store).filled(of_step(body))
    assert json.loads(filled.body)["params"] == [LARGE, 1, LARGE]
    assert filled.id == "a"


def test_an_element_of_a_large_list_comes_back_alone(store: DirectoryStore) -> None:
    stored = Stored.of_text(kept(store, LARGE))
    assert stored is not None
    for number in (0, COUNT - 1):
        body = f"[{Stored(stored.name, stored.sha256, stored.size, COUNT, number).encode()}]".encode()
        assert json.loads(StepResults(store).filled(of_step(body)).body) == [LARGE[number]]
    body = Stored(stored.name, stored.sha256, stored.size, COUNT, COUNT).encode().encode()
    with pytest.raises(StoreFailed, match="no element 1200"):
        StepResults(store).filled(of_step(body))


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("application/json", b'"' + b"a" * 150_000 + b'"'),
        ("application/json", b'"' + b"a" * 1_000_000 + b'"'),
        ("application/json", b"[" * 200 + b"1" * 1_100_000 + b"]" * 200),
        ("application/octet-stream", b"\0" * 2_000_000),
        ("application/json", b'{"jsonrpc":"2.0","error":{"code":1,"message":"' + b"a" * 1_100_000 + b'"}}'),
    ],
)
def test_a_result_that_is_small_or_is_no_json_is_not_kept(tmp_path, store, kind, data) -> None:
    assert StepResults(store).kept(of_step(), kind, data) == (kind, data)
    assert list((tmp_path / "results").iterdir()) == []


def test_a_result_that_only_its_escapes_make_too_large_is_kept(store: DirectoryStore) -> None:
    kind, data = StepResults(store).kept(of_step(), "text/plain; charset=utf-8", b"\x1b" * 200_000)
    stored = Stored.of_text(data.decode())
    assert stored is not None
    assert (kind, stored.size) == ("application/json", 1_200_002)


def test_a_result_of_another_workitem_is_not_kept(store: DirectoryStore) -> None:
    data = json.dumps(LARGE).encode()
    assert StepResults(store).kept(item(b"{}"), "application/json", data) == ("application/json", data)


def test_the_result_of_a_step_that_adds_others_is_kept(store: DirectoryStore) -> None:
    kind = "application/vnd.taskqueue.extend+json"
    data = json.dumps({"result": LARGE, "extend": [{"step": "b"}]}).encode()
    same, told = StepResults(store).kept(of_step(), kind, data)
    plain = json.loads(told)
    assert (same, plain["extend"], plain["result"]["$stored"]["count"]) == (kind, [{"step": "b"}], COUNT)


# --- forged references ---


@pytest.mark.parametrize(
    "reference",
    [
        '{"$stored":"/etc/passwd"}',
        f'{{"$stored":{{"name":"../../../../etc/passwd","sha256":"{"0" * 64}","size":1}}}}',
        f'{{"$stored":{{"name":"{"0" * 31}/","sha256":"{"0" * 64}","size":1}}}}',
        f'{{"$stored":{{"name":"{"0" * 32}","sha256":"{"0" * 64}","size":1,"path":"x"}}}}',
        json.dumps(json.dumps({"$stored": {"name": "0" * 32, "sha256": "0" * 64, "size": 1}})),
    ],
)
def test_what_is_no_reference_never_reaches_a_store(store: DirectoryStore, reference: str) -> None:
    body = f'{{"params":[{reference}]}}'.encode()
    assert StepResults(store).filled(of_step(body)).body == body


def test_a_reference_is_no_use_without_the_digest_of_what_it_means(store: DirectoryStore) -> None:
    store.put(NAME, b'"secret"')
    good = Stored(NAME, hashlib.sha256(b'"secret"').hexdigest(), 8)
    assert StepResults(store).filled(of_step(good.encode().encode())).body == b'"secret"'
    for forged in (Stored(NAME, "0" * 64, 8), Stored(NAME, good.sha256, 7)):
        with pytest.raises(StoreFailed, match="other bytes than it was given"):
            StepResults(store).filled(of_step(forged.encode().encode()))


def test_only_a_step_gets_what_a_reference_means(store: DirectoryStore) -> None:
    store.put(NAME, b'"secret"')
    body = Stored(NAME, hashlib.sha256(b'"secret"').hexdigest(), 8).encode().encode()
    assert StepResults(store).filled(item(body)).body == body


def test_results_that_are_too_large_together_are_not_read(store: DirectoryStore) -> None:
    body = Stored(NAME, "0" * 64, 200_000_000).encode().encode()
    with pytest.raises(StoreFailed, match="200,000,000 bytes; at most 166,723,584 are passed on"):
        StepResults(store).filled(of_step(body))


def test_a_group_without_a_store_says_so() -> None:
    body = Stored(NAME, "0" * 64, 2_000_000).encode().encode()
    with pytest.raises(StoreFailed, match=r"2,000,000 bytes .* no option result_store"):
        StepResults().filled(of_step(body))


def test_a_store_is_a_subclass_with_both_methods() -> None:
    with pytest.raises(TypeError, match="abstract"):
        ResultStore()


# --- in the flow process ---


@pytest.fixture
def mill(tmp_path: Path):
    flow = SqliteStore(tmp_path / "flow.db")
    yield Mill(flow)
    flow.close()


def reference(count: int | None) -> dict[str, object]:
    return json.loads(Stored(NAME, "0" * 64, 2_000_000, count).encode())


def test_a_map_has_a_step_for_each_element_of_a_list_in_a_store(mill: Mill) -> None:
    id_ = mill.start(step("a"), step("m", map={"$result": "a"}, params=[5]))
    mill.do("a", result=reference(3))
    bodies = [each.body["params"] for each in mill.published if each.step.startswith("m[")]
    assert [body[0]["$stored"]["element"] for body in bodies] == [0, 1, 2]
    assert {body[1] for body in bodies} == {5}
    mill.do_all(lambda each: each.step)
    assert mill.ask("result", id_, step="m")["result"] == ["m[0]", "m[1]", "m[2]"]


@pytest.mark.parametrize(
    ("count", "fault"), [(None, "is no list; map m needs a list"), (100_001, "map m has 100,001 elements")]
)
def test_a_map_of_what_is_no_list_or_too_long_in_a_store_fails(mill: Mill, count, fault) -> None:
    id_ = mill.start(step("a"), step("m", map={"$result": "a"}))
    mill.do("a", result=reference(count))
    assert mill.state(id_) == "failed"
    assert fault in str(mill.ask("steps", id_)["steps"][1]["error"])
