"""The sections [limit NAME], and their use by groups."""

import json

import pytest

from taskqueue.limits.definition import Limit, LimitUse

BOTH = "[limit shopify-api]\nconcurrency: 5\nrate: 40 per 1s\n"


def test_a_section_is_a_limit(read):
    settings = read(
        f"{BOTH}[limit mail]\nrate = 100 PER 5m\n[worker1]\nlimits: shopify-api, mail by tenant\n"
    )
    assert settings.limits == (Limit("shopify-api", 5, 40, 1.0), Limit("mail", None, 100, 300.0))
    limits = {group.name: group.limits for group in settings.groups}
    assert limits["worker1"] == (LimitUse("shopify-api"), LimitUse("mail", "tenant"))
    assert limits["worker3"] == ()
    assert settings.warnings == ()


@pytest.mark.parametrize(
    ("written", "rate"),
    [("1 per 1d", (1, 86400.0)), ("500000 per s", (500_000, 1.0)), ("3 per 0.5s", (3, 0.5)),
     ("2 per 24h", (2, 86400.0))],
)  # fmt: skip
def test_a_rate_may_be_any_number_per_any_time_up_to_a_day(read, written, rate):
    (limit,) = read(f"[limit a]\nrate: {written}\n").limits
    assert (limit.starts, limit.period) == rate


RATE = "a number from 1 to 500000 and a period of at most a day, such as 40 per 1s"
USES = "up to 8 limits, each once, such as shopify-api, mail by tenant"


@pytest.mark.parametrize(
    ("text", "place", "expected", "found"),
    [
        ("[limit a]\nrate: 0\n", "[limit a], option rate", RATE, "'0'"),
        ("[limit a]\nrate: 0 per 1s\n", "[limit a], option rate", RATE, "'0 per 1s'"),
        ("[limit a]\nrate: 5 per 25h\n", "[limit a], option rate", RATE, "'5 per 25h'"),
        ("[limit a]\nrate: 5 per 0s\n", "[limit a], option rate", RATE, "'5 per 0s'"),
        ("[limit a]\nrate: 500001 per 1s\n", "[limit a], option rate", RATE, "'500001 per 1s'"),
        ("[limit a]\nconcurrency: 0\n", "[limit a], option concurrency", "a number from 1 to 100000", "'0'"),
        ("[limit a]\n", "[limit a]", "concurrency, rate or both", "neither"),
        (
            "[limit a]\nconcurrency: 1\nconcurency: 1\n",
            "[limit a], option concurency",
            "'concurrency', the nearest option known here",
            "an unknown option",
        ),
        (
            "[limit a b]\nconcurrency: 1\n",
            "[limit a b]",
            "a limit's name: 1 to 100 of letters, digits, _ - and ., a letter or digit first",
            "'a b'",
        ),
        (
            "[limit a]\nconcurrency: 1\n[limit  a]\nconcurrency: 1\n",
            "[limit  a]",
            "one limit of this name",
            "another",
        ),
        ("[worker1]\nlimits: none\n", "[worker1], option limits", "a section [limit none]", "none"),
        (
            f"{BOTH}[worker1]\nlimits: shopify\n",
            "[worker1], option limits",
            "a section [limit shopify]",
            "none; is [limit shopify-api] meant?",
        ),
        ("[nobody]\nlimits: gone\n", "[nobody], option limits", "a section [limit gone]", "none"),
        (f"{BOTH}[worker1]\nlimits: shopify-api by\n", "[worker1], option limits", USES, "'shopify-api by'"),
        (
            f"{BOTH}[worker1]\nlimits: shopify-api, shopify-api by tenant\n",
            "[worker1], option limits",
            USES,
            "'shopify-api, shopify-api by tenant'",
        ),
    ],
)
def test_a_wrong_value_is_one_clear_line(faults_of, text, place, expected, found):
    (fault,) = faults_of(text)
    assert str(fault).endswith(f"section {place}: expected {expected}, found {found}")


def test_a_section_without_a_name_is_hinted_at(read):
    (warning,) = read("[limit]\nconcurrency: 1\n").warnings
    assert warning.endswith("; is [limit NAME] meant?")


def test_a_header_that_is_nearly_called_tenant_is_hinted_at(read):
    assert read(f"{BOTH}[worker1]\nlimits: shopify-api by x-shop\n").warnings == ()
    (warning,) = read(f"{BOTH}[worker1]\nlimits: shopify-api by tennant\n").warnings
    assert warning == "section [worker1]: limit shopify-api is by the header 'tennant'; is tenant meant?"


def test_the_limits_in_force_are_shown(call, write):
    path = write(f"{BOTH}[limit mail]\nconcurrency: 1\n")
    status, shown, _ = call("config", "-c", path)
    rows = [line.split() for line in shown.partition("\nLimits\n")[2].splitlines()[1:3]]
    assert (status, rows) == (0, [["shopify-api", "5", "40", "per", "1s"], ["mail", "1"]])
    assert json.loads(call("config", "-c", path, "--format", "json")[1])["limits"] == [
        {"name": "shopify-api", "concurrency": 5, "rate": "40 per 1s"},
        {"name": "mail", "concurrency": 1, "rate": None},
    ]
