"""The verdicts of `make demo`; tests/process runs it."""

import hashlib
import os
import subprocess

import demo
import pytest


@pytest.fixture
def report(tmp_path, monkeypatch):
    """Return the demo's exit status when one file's checksum has come back."""
    monkeypatch.setenv(demo.MARK, tmp_path.name)
    file = tmp_path / "file"
    file.write_bytes(b"some\nlines\n")

    def report(checksum, *, succeeded=True):
        body = {"path": str(file), "size": 11, "lines": 2, "sha256": checksum}
        return demo.report([file], {file: demo.Result(succeeded, body)}, tmp_path)

    return report


def test_a_right_digest_is_status_0(report):
    assert report(hashlib.sha256(b"some\nlines\n").hexdigest()) == 0


def test_a_digest_that_sha256sum_does_not_confirm_is_status_1(report, capsys):
    assert report(hashlib.sha256(b"other lines").hexdigest()) == 1
    assert "0 of 1 digests" in capsys.readouterr().out


def test_a_failure_is_status_1(report):
    assert report(hashlib.sha256(b"some\nlines\n").hexdigest(), succeeded=False) == 1


def test_a_process_that_is_left_is_status_1(report):
    with subprocess.Popen(["sleep", "60"], env=os.environ) as left:
        try:
            assert report(hashlib.sha256(b"some\nlines\n").hexdigest()) == 1
        finally:
            left.kill()
