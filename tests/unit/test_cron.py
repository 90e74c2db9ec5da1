"""The times of cron expressions and intervals: computed tables, and Debian cron's own loop beside ours."""

import math
import random
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from support.examples import share_of

from taskqueue.errors import BadSchedule
from taskqueue.schedules.timing import Cron, Interval
from taskqueue.schedules.zones import host_zone


def instant(text, zone):
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()


def times(expression, zone, after, number):
    """Return the first times after one, as a clock of the zone shows them."""
    cron, at, found = Cron(expression, zone), instant(after, zone), []
    for _ in range(number):
        at = cron.next_after(at)
        found.append(datetime.fromtimestamp(at, ZoneInfo(zone)).isoformat(timespec="seconds"))
    return found


BERLIN, NEW_YORK, LORD_HOWE = "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"


# Each table was computed by hand from crontab(5), cron(8) and the tz database.
@pytest.mark.parametrize(
    ("expression", "zone", "after", "expected"),
    [
        ("*/20 * * * *", "UTC", "2026-01-31T23:30",
         "2026-01-31T23:40:00+00:00 2026-02-01T00:00:00+00:00 2026-02-01T00:20:00+00:00"),
        ("0 3 * * 1-5", "UTC", "2026-11-27T03:00",
         "2026-11-30T03:00:00+00:00 2026-12-01T03:00:00+00:00"),
        ("0 3 * * mon-fri", "UTC", "2026-11-27T03:00", "2026-11-30T03:00:00+00:00"),
        ("0 0 1 jan,JUL *", "UTC", "2026-01-01T00:00",
         "2026-07-01T00:00:00+00:00 2027-01-01T00:00:00+00:00"),
        ("15 10 13 * 5", "UTC", "2026-02-07T00:00",  # the 13th or a Friday
         "2026-02-13T10:15:00+00:00 2026-02-20T10:15:00+00:00 2026-02-27T10:15:00+00:00"),
        ("0 0 */10 * 5", "UTC", "2026-01-01T00:00",  # * before the step: both
         "2026-05-01T00:00:00+00:00 2026-07-31T00:00:00+00:00 2026-08-21T00:00:00+00:00"),
        ("0 0 * * 7", "UTC", "2026-11-29T00:00", "2026-12-06T00:00:00+00:00"),
        ("0 0 * * 5-7", "UTC", "2026-11-27T00:00", "2026-11-28T00:00:00+00:00 2026-11-29T00:00:00+00:00"),
        ("0 12 29 2 *", "UTC", "2097-01-01T00:00", "2104-02-29T12:00:00+00:00"),  # 2100 has no such day
        ("59 23 31 * *", "UTC", "2026-01-31T23:59",
         "2026-03-31T23:59:00+00:00 2026-05-31T23:59:00+00:00 2026-07-31T23:59:00+00:00"),
        ("30 4 * * *", "Asia/Kolkata", "2026-06-01T00:00", "2026-06-01T04:30:00+05:30"),
        ("0 0 * * *", "Asia/Kathmandu", "2026-06-01T12:00", "2026-06-02T00:00:00+05:45"),
        ("*/15 30 4 * * *", "UTC", "2026-06-01T04:30:10",
         "2026-06-01T04:30:15+00:00 2026-06-01T04:30:30+00:00 2026-06-01T04:30:45+00:00"),
        ("* * * * * *", "UTC", "2026-06-01T04:30:10", "2026-06-01T04:30:11+00:00"),
        ("@hourly", "UTC", "2026-06-01T04:30", "2026-06-01T05:00:00+00:00"),
        ("@Daily", "UTC", "2026-06-01T04:30", "2026-06-02T00:00:00+00:00"),
        ("@weekly", "UTC", "2026-06-01T04:30", "2026-06-07T00:00:00+00:00"),
        ("@monthly", "UTC", "2026-06-01T04:30", "2026-07-01T00:00:00+00:00"),
        ("@yearly", "UTC", "2026-06-01T04:30", "2027-01-01T00:00:00+00:00"),
        # the clock goes from 02:00 to 03:00
        ("30 2 * * *", BERLIN, "2026-03-28T12:00", "2026-03-29T03:00:00+02:00 2026-03-30T02:30:00+02:00"),
        ("0,30 2 * * *", BERLIN, "2026-03-28T12:00", "2026-03-29T03:00:00+02:00 2026-03-30T02:00:00+02:00"),
        ("0 3 * * *", BERLIN, "2026-03-28T12:00", "2026-03-29T03:00:00+02:00 2026-03-30T03:00:00+02:00"),
        ("0 2,3 * * *", BERLIN, "2026-03-28T12:00", "2026-03-29T03:00:00+02:00 2026-03-30T02:00:00+02:00"),
        ("30 * * * *", BERLIN, "2026-03-29T01:00", "2026-03-29T01:30:00+01:00 2026-03-29T03:30:00+02:00"),
        ("*/30 2 * * *", BERLIN, "2026-03-28T12:00", "2026-03-30T02:00:00+02:00"),  # follows the clock
        # from 03:00 to 02:00
        ("30 2 * * *", BERLIN, "2026-10-24T12:00", "2026-10-25T02:30:00+02:00 2026-10-26T02:30:00+01:00"),
        ("30 * * * *", BERLIN, "2026-10-25T01:45",
         "2026-10-25T02:30:00+02:00 2026-10-25T02:30:00+01:00 2026-10-25T03:30:00+01:00"),
        ("30 1 * * *", NEW_YORK, "2026-10-31T12:00", "2026-11-01T01:30:00-04:00 2026-11-02T01:30:00-05:00"),
        # by half an hour, from 02:00 to 02:30 and back
        ("15 2 * * *", LORD_HOWE, "2026-10-03T12:00", "2026-10-04T02:30:00+11:00 2026-10-05T02:15:00+11:00"),
        ("45 1 * * *", LORD_HOWE, "2026-04-04T12:00", "2026-04-05T01:45:00+11:00 2026-04-06T01:45:00+10:30"),
        # a whole day that never was is no daylight saving
        ("0 8 * * *", "Pacific/Apia", "2011-12-29T12:00", "2011-12-31T08:00:00+14:00"),
    ],
)  # fmt: skip
def test_a_cron_expression_is_due_at(expression, zone, after, expected):
    assert times(expression, zone, after, len(expected.split())) == expected.split()


def test_a_second_pass_of_an_hour_is_skipped_by_who_begins_in_it():
    cron = Cron("30 2 * * *", BERLIN)
    second_pass = datetime(2026, 10, 25, 2, 10, tzinfo=ZoneInfo(BERLIN), fold=1).timestamp()
    assert cron.next_after(second_pass) == instant("2026-10-26T02:30", BERLIN)


# --- Debian cron's loop (cron.c of vixie-cron 3.0pl1-162, main), minute by minute ---


def debian(fields, zone, begin, end):
    """Yield the times at which Debian's cron runs a job; `fields`: sets, and whether each begins with *."""
    sets, stars = fields
    is_wild, needs_both = stars[0] or stars[1], stars[2] or stars[4]

    def matches(minute):
        wall = datetime.fromtimestamp(minute * 60, UTC)
        parts = (wall.minute, wall.hour, wall.day, wall.month, wall.isoweekday() % 7)
        hits = [part in allowed for part, allowed in zip(parts, sets, strict=True)]
        day = (hits[2] and hits[4]) if needs_both else (hits[2] or hits[4])
        return hits[0] and hits[1] and hits[3] and day

    def shown(minute):
        there = datetime.fromtimestamp(minute * 60, UTC).astimezone(ZoneInfo(zone))
        return minute + int(there.utcoffset() / timedelta(minutes=1))

    virtual = shown(begin - 1)
    for minute in range(begin, end):
        now = shown(minute)
        difference = now - virtual
        if abs(difference) > 180 or difference == 1:
            virtual = now
            runs = matches(now)
        elif difference > 1:  # fixed jobs for every minute that was skipped
            runs = matches(now) if is_wild else any(map(matches, range(virtual + 1, now + 1)))
            virtual = now
        else:  # fixed jobs wait until the virtual time is passed
            runs = is_wild and matches(now)
        if runs:
            yield minute * 60


def random_field(chance, least, most):
    """Return a field as text, as a set, and whether it begins with *."""
    kind = chance.randrange(5)
    if kind == 0:
        return "*", set(range(least, most + 1)), True
    if kind == 1:
        step = chance.randint(1, most)
        return f"*/{step}", set(range(least, most + 1, step)), True
    first = chance.randint(least, most)
    if kind == 2:
        last = chance.randint(first, most)
        step = chance.randint(1, most)
        return f"{first}-{last}/{step}", set(range(first, last + 1, step)), False
    values = {chance.randint(least, most) for _ in range(chance.randint(1, 4))}
    return ",".join(map(str, values)), values, False


CHANGES = [
    (BERLIN, "2026-03-29T02:00"), (BERLIN, "2026-10-25T03:00"), (NEW_YORK, "2026-03-08T02:00"),
    (NEW_YORK, "2026-11-01T02:00"), (LORD_HOWE, "2026-04-05T02:00"), (LORD_HOWE, "2026-10-04T02:00"),
    ("Africa/Casablanca", "2026-02-15T03:00"), ("Pacific/Apia", "2011-12-30T00:00"),
    ("America/St_Johns", "2026-03-08T02:00"), ("Asia/Kolkata", "2026-02-28T23:00"),
]  # fmt: skip


@pytest.mark.parametrize("seed", range(share_of(120)))
def test_the_times_are_those_of_debians_loop(seed):
    chance = random.Random(seed)
    zone, change = chance.choice(CHANGES)
    fields = [random_field(chance, *span) for span in [(0, 59), (0, 23), (1, 31), (1, 12), (0, 6)]]
    if chance.random() < 0.8:  # else most are never due near the change
        fields[1] = chance.choice([("*", set(range(24)), True), ("2", {2}, False), ("1-3", {1, 2, 3}, False)])
        fields[2:] = [("*", set(range(32)), True), ("*", set(range(13)), True), ("*", set(range(7)), True)]
    expression = " ".join(text for text, _, _ in fields)
    if min(fields[2][1]) > 28:
        return  # perhaps it never occurs
    cron = Cron(expression, zone)
    middle = int(instant(change, zone)) // 60
    begin, end = middle - 26 * 60, middle + 26 * 60
    found, at = [], float(begin * 60 - 1)
    while (at := cron.next_after(at)) < end * 60:
        found.append(at)
    sets = [values for _, values, _ in fields], [star for _, _, star in fields]
    assert found == list(debian(sets, zone, begin, end)), f"{expression} in {zone}"


# --- intervals ---


def test_an_interval_is_counted_from_1970():
    assert Interval(900).next_after(1_800_000_000.5) == 1_800_000_900
    assert Interval(900, 60).next_after(1_800_000_000) == 1_800_000_060
    assert Interval(900, 60).next_after(1_800_000_060) == 1_800_000_960
    assert Interval(1).next_after(0) == 1


def test_every_next_time_of_an_interval_is_later():
    chance = random.Random(1)
    for _ in range(1000):
        interval, at = Interval(chance.uniform(1, 1e5), chance.uniform(0, 1e5)), chance.uniform(0, 2e9)
        later = interval.next_after(at)
        assert at < later <= at + interval.every * 1.001
        assert interval.next_after(later) > later


# --- what is wrong ---


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ("0 0 30 2 *", "'0 0 30 2 *' never occurs: none of its months has that day"),
        ("0 0 31 4,6 *", "'0 0 31 4,6 *' never occurs: none of its months has that day"),
        ("", "'' has 0 fields; expected 5, or 6 with seconds first"),
        ("* * * *", "'* * * *' has 4 fields; expected 5, or 6 with seconds first"),
        ("@reboot", "'@reboot' is not known; known are @yearly, @annually"),
        ("60 * * * *", "minute: expected 0 to 59, found '60'"),
        ("* 24 * * *", "hour: expected 0 to 23, found '24'"),
        ("* * 0 * *", "day of month: expected 1 to 31, found '0'"),
        ("* * * foo *", "month: expected 1 to 12 or jan to dec, found 'foo'"),
        ("* * * * 8", "day of week: expected 0 to 7 or sun to sat, found '8'"),
        ("*/0 * * * *", "minute: expected a step from 1 to 59, found 0"),
        ("*/90 * * * *", "minute: expected a step from 1 to 59, found 90"),
        ("5/15 * * * *", "minute: a step is for * or a range, as in 5-59/2"),
        ("30-10 * * * *", "minute: the range '30-10' ends before it begins"),
        ("1,,2 * * * *", "minute: '' is no value, range or step"),
        ("-1 * * * *", "minute: '-1' is no value, range or step"),
        ("\u0661 * * * *", "minute: '\u0661' is no value, range or step"),
        ("9999999 * * * *", "minute: expected 0 to 59, found '9999999'"),
        ("* " * 600, "a cron expression has at most 1000 characters"),
    ],
)
def test_a_wrong_expression_is_refused_in_one_line(expression, reason):
    with pytest.raises(BadSchedule) as refused:
        Cron(expression, "UTC")
    assert str(refused.value).startswith(reason)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "name", ["Europe/Berln", "", "../etc/passwd", "/etc/localtime", "a\0b", "Europe", "x" * 300]
)
def test_a_zone_that_does_not_exist_is_refused(name):
    with pytest.raises(BadSchedule, match="no time zone"):
        Cron("0 0 * * *", name)


def test_the_zone_of_this_host_is_one_that_exists(monkeypatch):
    assert Cron("0 0 * * *", host_zone()).next_after(0) < math.inf
    monkeypatch.setenv("TZ", ":Asia/Tokyo")
    assert host_zone() == "Asia/Tokyo"
    monkeypatch.setenv("TZ", "nonsense")
    assert host_zone() == "UTC"
