"""Charts and percentiles: by drawings and times whose figures are known."""

import statistics
from bisect import bisect_left
from random import Random
from xml.etree import ElementTree as ET

import pytest

from taskqueue.monitor.record import BUCKETS
from taskqueue.monitor.web.pages.charts import Column, chart_html
from taskqueue.monitor.web.pages.histograms import Histogram


def histogram(times):
    counts = [0] * (len(BUCKETS) + 1)
    for each in times:
        counts[bisect_left(BUCKETS, each)] += 1
    return Histogram(tuple(counts))


def test_the_highest_column_has_the_full_height_and_parts_are_stacked():
    drawn = ET.fromstring(
        chart_html("x", [Column("a", {"good": 1, "bad": 3}), Column("b"), Column("c", {"bad": 2})])
    )
    assert drawn.get("viewBox") == "0 0 30 100"
    rects = [
        (each.get("class"), float(each.get("x")), float(each.get("y")), float(each.get("height")))
        for each in drawn.iter("rect")
    ]
    assert rects == [("good", 0, 75, 25), ("bad", 0, 0, 75), ("bad", 20, 50, 50)]
    assert [each.text for each in drawn.iter("title")] == ["a: good 1, bad 3", "c: bad 2"]


def test_a_chart_without_counts_is_empty():
    assert list(ET.fromstring(chart_html("x", [Column("a"), Column("b")]))) == []
    assert list(ET.fromstring(chart_html("x", []))) == []


def test_foreign_text_in_a_chart_is_text():
    text = "<script>\"'&"
    drawn = ET.fromstring(chart_html(text, [Column(text, {text: 1})]))
    assert drawn.get("aria-label") == text
    assert drawn.find("g/title").text == f"{text}: {text} 1"
    assert [each.tag for each in drawn.iter()] == ["svg", "g", "title", "rect"]


@pytest.mark.parametrize("seed", range(5))
def test_a_percentile_is_in_the_bucket_of_the_exact_one(seed):
    random = Random(seed)
    times = [random.lognormvariate(0, 2) for _ in range(1000)]
    cuts = statistics.quantiles(times, n=100, method="inclusive")
    for part in (1, 50, 95, 99):
        found = histogram(times).percentile(part / 100)
        place, expected = bisect_left(BUCKETS, found), bisect_left(BUCKETS, cuts[part - 1])
        assert abs(place - expected) <= (part == 1), (found, cuts[part - 1])


def test_percentiles_of_nothing_and_beyond_the_last_bound():
    assert histogram([]).percentile(0.5) is None
    assert histogram([50_000]).percentile(0.5) == BUCKETS[-1]
    assert Histogram.sum([(), histogram([0.5]).counts, histogram([0.5, 2]).counts]).count == 3
