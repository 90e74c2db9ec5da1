"""The programs of docs/commands.md in other languages, each in a worker of its own."""

import os
import shutil
import subprocess

import pytest
from support.commanding import commanded, ready
from support.documentation import example

from taskqueue.errors import ExitStatus
from taskqueue.worker.frames import Verdict

__all__ = ["commanded", "ready"]


def program_of(directory, language):
    """Return the command of an example; skip the test where its language is not installed."""
    if shutil.which(language) is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(
            f"{language} is not installed; `scripts/setup.sh clients` installs it"
        )
    if language == "ruby":
        text = example("docs/commands.md", "#!/usr/bin/ruby")
    elif language == "node":
        text = example("docs/commands.md", "#!/usr/bin/node")
    else:
        return built_by_go(directory, example("docs/commands.md", "package main"))
    program = directory / "count"
    program.write_text(text)
    return f"{shutil.which(language)} {program}"


def built_by_go(directory, text):
    (directory / "count.go").write_text(text)
    environment = {**os.environ, "GO111MODULE": "off", "GOCACHE": str(directory / "cache")}
    build = ["go", "build", "-o", str(directory / "count"), str(directory / "count.go")]
    subprocess.run(build, env=environment, check=True, timeout=60)
    return str(directory / "count")


@pytest.mark.parametrize("language", ["ruby", "node", "go"])
def test_a_program_in_another_language_counts_words(ready, tmp_path, language):
    line = ready(program_of(tmp_path, language), mode="stream")
    for body, number in [("to be or not to be", 6), ("grüße  an\nalle", 3), ("x " * 200_000, 200_000)]:
        assert line.value(body) == {"words": number}
    found = line.perform("5", content_type="application/json")
    assert found.verdict is Verdict.FAILED
    assert found.error.startswith("CommandFailed: ")
    assert line.value("again") == {"words": 1}
    assert line.hang_up() == ExitStatus.OK
    assert line.child.output() == ""
