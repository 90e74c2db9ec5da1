import hashlib
import json
import os
import subprocess
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from digest_plugin import BLOCK, Worker, digest

FIXTURES = Path(__file__).parents[1] / "fixtures"


@pytest.fixture
def handle():
    """The handler without a worker process around it: this plugin keeps nothing in its instance."""
    return Worker.handle_task.__get__(object.__new__(Worker))


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "two lines and a half"
    path.write_bytes(b"one\ntwo\nhalf")
    return str(path)


EXPECTED = {"size": 12, "lines": 2, "sha256": hashlib.sha256(b"one\ntwo\nhalf").hexdigest()}


def test_the_entry_point_names_the_worker_type():
    (entry_point,) = entry_points(group="worker.plugins", name="digest")
    assert entry_point.value == "digest_plugin:Worker.factory"
    assert callable(entry_point.load())


def test_a_path_becomes_size_lines_and_checksum(handle, file):
    assert handle(file) == {"path": file, **EXPECTED}


def test_an_object_with_a_path_is_as_good_as_a_path(handle, file):
    assert handle({"path": file}) == handle(file)


def test_a_ruote_workitem_comes_back_whole_with_its_digest(handle, file):
    workitem = json.loads((FIXTURES / "ruote-workitem.json").read_text())
    workitem["fields"]["path"] = file
    result = handle(json.loads(json.dumps(workitem)))
    assert result["fields"].pop("digest") == {"path": file, **EXPECTED}
    assert result == workitem


@pytest.mark.parametrize("content", [b"", b"\n", b"\0" * BLOCK, b"x\n" * BLOCK + b"y"])
def test_the_digest_is_what_wc_and_sha256sum_say(tmp_path, content):
    path = tmp_path / "file"
    path.write_bytes(content)
    lines, size = subprocess.check_output(["wc", "-lc", path]).split()[:2]
    sha256 = subprocess.check_output(["sha256sum", path]).split()[0].decode()
    assert digest(str(path)) == {"path": str(path), "size": int(size), "lines": int(lines), "sha256": sha256}


def test_a_missing_file_is_said_to_be_missing(handle, tmp_path):
    with pytest.raises(FileNotFoundError):
        handle(str(tmp_path / "missing"))


def test_what_might_never_end_is_refused(handle, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path):
        with pytest.raises(ValueError, match="not a regular file"):
            handle(str(path))


@pytest.mark.parametrize(
    "body", [None, 1, [], {}, {"path": 1}, {"fields": {}}, {"fields": None}, b"/etc/passwd"]
)
def test_a_body_without_a_path_is_refused_with_what_was_expected(handle, body):
    with pytest.raises(ValueError, match="expected a path"):
        handle(body)
