"""The sections [schedule NAME], and the definitions that they make."""

import json
from itertools import islice

import pytest

from taskqueue.errors import BadSchedule
from taskqueue.schedules.definition import Definition
from taskqueue.schedules.zones import host_zone

WHOLE = """
[schedule nightly-report]
cron: 0 3 * * 1-5
timezone: Europe/Berlin
type: report
body: {"day": "yesterday"}
content_type: application/x-report
tenant: acme
tags: nightly, money
jitter: 5m
missed: Once
overlap: no
"""


def test_a_section_is_a_schedule(read):
    (made,) = read(WHOLE).schedules
    assert made == Definition(
        "nightly-report", "report", cron="0 3 * * 1-5", timezone="Europe/Berlin", body='{"day": "yesterday"}',
        content_type="application/x-report", tenant="acme", tags=("nightly", "money"), jitter=300.0,
        missed="once", overlap=False,
    )  # fmt: skip


def test_what_is_not_given_has_a_default(read):
    interval, cron = read(
        "[schedule a]\nevery: 15m\noffset: 60s\ntype: x\n[schedule b]\ncron: @daily\ntype: y\nbody: a text\n"
    ).schedules
    assert interval == Definition("a", "x", every=900.0, offset=60.0)
    assert (interval.body, interval.content_type, interval.missed, interval.overlap) == (
        "null", "application/json", "skip", True,
    )  # fmt: skip
    assert (cron.timezone, cron.content_type) == (host_zone(), "text/plain")


def test_a_body_may_be_in_a_file(read, tmp_path):
    (tmp_path / "body").write_bytes(b"\xff\x00binary")
    text = f"[schedule a]\nevery: 15m\ntype: x\nbody_file: {tmp_path}/body\ncontent_type: a/b\n"
    assert read(text).schedules[0].body_bytes() == b"\xff\x00binary"


def test_the_section_of_a_schedule_is_no_workers_section(read):
    settings = read("[DEFAULT]\nretries: 3\n[schedule a]\nevery: 15m\ntype: x\n")
    assert settings.warnings == ()
    assert {group.name for group in settings.groups} == {"worker1", "worker2", "worker3"}


ONE = "every: 1m\ntype: x\n"


@pytest.mark.parametrize(
    ("text", "place", "expected", "found"),
    [
        ("type: x", "", "either cron or every", "neither"),
        (f"{ONE}cron: @daily", "", "either cron or every", "both"),
        ("every: 1m", "type", "a worker type", "none"),
        ("every: 1m\ntype: x y", "type", "a worker type: 1 to 100 of letters", "'x y'"),
        (
            "every: 0\ntype: x",
            "every",
            "a time such as 90d, 12h, 30m, 15s or a number of seconds, 1 or more",
            "'0'",
        ),
        (
            "cron: 0 0 30 2 *\ntype: x",
            "cron",
            "a cron expression such as 30 3 * * mon-fri or @daily",
            "a wrong one: '0 0 30 2 *' never occurs: none of its months has that day",
        ),
        (
            "cron: @daily\ntimezone: Europe/Berln\ntype: x",
            "timezone",
            "a time zone of this",
            "'Europe/Berln'",
        ),
        (f"{ONE}timezone: UTC", "timezone", "cron beside it", "none"),
        ("cron: @daily\noffset: 1m\ntype: x", "offset", "every beside it", "none"),
        (f"{ONE}body: a\nbody_file: /etc/hostname", "body_file", "either body or body_file", "both"),
        (f"{ONE}body_file: /etc", "body_file", "the absolute path of a readable", "'/etc', which is no file"),
        (f"{ONE}body_file: etc", "body_file", "the absolute path of a readable", "'etc'"),
        (f"{ONE}body: {'x' * 65_537}", "body", "a text of at most 65536 bytes", "'xxxxxxx"),
        (f"{ONE}missed: twice", "missed", "one of skip, once, all", "'twice'"),
        (f"{ONE}overlap: maybe", "overlap", "yes or no", "'maybe'"),
        (
            f"{ONE}jitter: -1",
            "jitter",
            "a time such as 90d, 12h, 30m, 15s or a number of seconds, 0 or more",
            "'-1'",
        ),
        (f"{ONE}content_type: json", "content_type", "a media type such as application/json", "'json'"),
        (f"{ONE}tags: {'x' * 381}", "tags", "words separated by commas", "'xxxxxxx"),
        (f"{ONE}tenant: {'x' * 10_000}", "tenant", "a text of at most 100 bytes", "'xxxxxxx"),
        (f"{ONE}corn: 5", "corn", "'cron', the nearest option known here", "an unknown option"),
    ],
)
def test_a_wrong_section_is_a_fault_in_one_line(faults_of, text, place, expected, found):
    (fault,) = faults_of(f"[schedule a]\n{text}\n")
    option = f", option {place}" if place else ""
    assert fault.startswith(f"section [schedule a]{option}: expected {expected}")
    assert f", found {found}" in fault
    assert len(fault) < 300


@pytest.mark.parametrize("name", ["", "a b", "-a", "a" * 101, "ü"])
def test_a_wrong_name_is_a_fault(faults_of, name):
    (fault,) = faults_of(f"[schedule  {name}]\nevery: 1m\ntype: x\n")
    assert "expected a name of 1 to 100 of letters, digits" in fault


def test_a_name_is_given_once(faults_of):
    text = "every: 1m\ntype: x\n"
    assert faults_of(f"[schedule a]\n{text}[schedule  a]\n{text}") == [
        "section [schedule  a]: expected one schedule of this name, found another"
    ]


# --- definitions ---


def test_a_definition_is_the_same_after_json(read):
    (made,) = read(WHOLE).schedules
    assert Definition.checked(json.loads(json.dumps(made.as_json()))) == made
    binary = Definition("a", "x", every=1.0, body=b"\xff\x00".decode("utf-8", "surrogateescape"))
    assert Definition.checked(json.loads(json.dumps(binary.as_json()))).body_bytes() == b"\xff\x00"


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": None}, {"name": "a b"}, {"worker_type": "a b"}, {"every": -1}, {"every": 0.5},
        {"every": True},
        {"every": float("nan")}, {"every": 1e300}, {"cron": "* * * * *"}, {"missed": "never"}, {"overlap": 1},
        {"tags": [1]}, {"tags": 1}, {"tags": None},
        {"tags": ["a b"]}, {"tags": ["a b", ""]}, {"tags": ["a" * 500]},
        {"body": "x" * 65_537}, {"body": b"x"},
        {"body": "\ud800"}, {"tags": ["\ud800"]}, {"tenant": "\ud800"},
        {"tenant": "x" * 101}, {"tenant": "a\nb"}, {"content_type": ""}, {"jitter": float("inf")},
        {"timezone": "Nowhere", "cron": "* * * * *", "every": 0},
    ],
)  # fmt: skip
def test_a_definition_from_elsewhere_is_checked(wrong):
    with pytest.raises(BadSchedule) as refused:
        Definition.checked({"name": "a", "worker_type": "x", "every": 1.0} | wrong)
    assert "\n" not in str(refused.value)


def test_a_tick_has_an_id_of_its_own_that_does_not_change():
    first, other = Definition("a", "x", every=1.0), Definition("b", "y", every=1.0)
    # RFC 4122, section 4.3: sha1sum of the namespace's bytes and "a 1800000000.000", with version and variant
    assert first.tick_id(1_800_000_000) == "22df03f1-78b0-5375-a10e-ea63aa58f712"
    assert len({each.tick_id(at) for each in (first, other) for at in (0, 1, 1.5)}) == 6


def test_jitter_delays_each_tick_by_its_own_time():
    schedule = Definition("a", "x", every=3600.0, jitter=60.0)
    delays = [schedule.fire_at(at) - at for at in islice(schedule.next_times(0), 200)]
    assert all(0 <= delay <= 60 for delay in delays)
    assert max(delays) > 50
    assert min(delays) < 10
    assert schedule.fire_at(3600) == schedule.fire_at(3600)
    assert Definition("a", "x", every=3600.0).fire_at(3600) == 3600
