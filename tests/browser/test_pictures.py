"""`make pictures`: it makes every picture that a page names, and each is small."""

import os
import re
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from support.browser import CHROMIUM

PROJECT = Path(__file__).parents[2]
PICTURES = PROJECT / "docs/pictures"
PNGQUANT = Path("/usr/bin/pngquant")
LARGEST = 150_000  # bytes
NAMED = re.compile(r"\((?:docs/)?pictures/([\w.-]+)\)")


def named():
    """Return the pictures that pages name."""
    pages = [PROJECT / "README.md", *PROJECT.glob("docs/*.md")]
    return {name for page in pages for name in NAMED.findall(page.read_text())}


def test_each_picture_that_a_page_names_exists_and_each_that_exists_is_named():
    assert named() == {path.name for path in PICTURES.iterdir()}
    assert not [path.name for path in PICTURES.iterdir() if path.stat().st_size > LARGEST]


@pytest.mark.timeout(400)
def test_the_pictures_are_made_anew(tmp_path):
    if missing := [path for path in (CHROMIUM, PNGQUANT) if not path.exists()]:
        fail = pytest.fail if os.environ.get("CI") else pytest.skip
        fail(f"{missing[0]} is missing; `scripts/setup.sh clients` installs it")
    paths = f"{PROJECT / 'tests'}:{PROJECT / 'scripts'}"
    command = [sys.executable, PROJECT / "scripts/pictures.py", tmp_path / "pictures"]
    done = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    made = {path.name: path.read_bytes() for path in (tmp_path / "pictures").iterdir()}
    assert made.keys() == named()
    for name, content in made.items():
        assert 5000 < len(content) <= LARGEST, name
        if name.endswith(".png"):
            assert content.startswith(b"\x89PNG\r\n\x1a\n"), name
            assert struct.unpack(">I", content[16:20])[0] == 1360, name
    assert b"http" not in made["top.svg"].replace(b"http://www.w3.org/", b""), "it loads nothing"
    assert b"thumbnail" in made["top.svg"]


def test_the_chore_runs_the_script():
    text = (PROJECT / "Makefile").read_text()
    assert re.search(
        r"^pictures: .*\n(\t.*\n)*\t@PYTHONPATH=tests:scripts .*scripts/pictures\.py", text, re.MULTILINE
    )
