"""The documentation's figures of feeds are those of the newest run of `make bench`."""

import json
import math
import re
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]


def newest():
    """Return the row of feeding in the newest result."""
    path = max((PROJECT / "benchmarks/results").glob("[0-9]*.json"))
    [row] = [each for each in json.loads(path.read_text())["findings"] if each["row"] == "feed"]
    return path.stem, row


def rounded(rate):
    """Write a rate with its first two digits."""
    unit = 10 ** (int(math.log10(rate)) - 1)
    return f"{round(rate / unit) * unit:,}"


def table():
    """Return the table of feeding.md: what feeds, and the rate."""
    text = (PROJECT / "docs/feeding.md").read_text().partition("## Performance")[2].partition("Memory")[0]
    return dict(re.findall(r"^\| (.+?) \| ([0-9,]+) \|$", text, re.MULTILINE))


def test_the_guide_to_feeding_has_the_figures_of_the_newest_run():
    _, row = newest()
    found = table()
    names = {
        "`taskqueue run`, `--size` 10,000": row["ours"],
        "`taskqueue run`, `--size` 100,000": row["more"]["size 100,000"],
        "`multiprocessing.Pool.imap_unordered`, chunksize 1": row["peers"]["imap_unordered"],
        "`multiprocessing.Pool.imap_unordered`, chunksize 1,000": row["peers"][
            "imap_unordered, 1,000 a chunk"
        ],
        "ZeroMQ, one job a request, as Taskmaster did it, and nothing else": row["peers"][
            "ZeroMQ, a request a job"
        ],
    } | {name: rate for name, rate in row["peers"].items() if name in found}
    assert found == {name: rounded(rate) for name, rate in names.items()}
    assert {"Celery, a task a job", "Huey, a task a job", "RQ, a task a job"} <= found.keys()


@pytest.mark.parametrize("file", ["README.md", "docs/performance.md"])
def test_others_have_the_same_figure_for_a_feed(file):
    date, row = newest()
    text = (PROJECT / file).read_text()
    said = {
        "README.md": f"# {rounded(row['ours'])} jobs a second",
        "docs/performance.md": f"| {row['ours']:,.0f} /s",
    }
    assert said[file] in text
    assert f"{date}.png" in text


def test_the_method_says_of_each_row_what_it_measures():
    code = (PROJECT / "benchmarks/__main__.py").read_text().partition("\nROWS")[2].partition("\n}")[0]
    rows = re.findall(r'^    "(\w+)": ', code, re.MULTILINE)
    method = (PROJECT / "docs/performance.md").read_text().partition("## Method")[2].partition("##")[0]
    assert re.findall(r"^\| (\w+) \|", method, re.MULTILINE) == ["row", *rows]
