from dataclasses import fields
from pathlib import Path

from reference import reference
from support.configs import PLUGINS

from taskqueue.config import (
    AmqpSettings,
    DispatcherSettings,
    GroupSettings,
    LoggingSettings,
    PoolSettings,
    load,
)
from taskqueue.config.settings import specification

PROJECT = Path(__file__).parents[2]


def test_the_frozen_values_have_a_field_for_each_option_of_the_table():
    more = {"__many__": {"name", "worker_type", "most_workers", "settings", "keep_failed", "show_output"}}
    kinds = {"dispatcher": DispatcherSettings, "workerpool": PoolSettings, "logging": LoggingSettings,
             "__many__": GroupSettings}  # fmt: skip
    for section, kind in kinds.items():
        names = {field.name for field in fields(kind)}
        assert names == more.get(section, set()).union(specification()[section])


def test_every_option_has_a_meaning():
    missing = [
        f"{kind} {name}"
        for kind, table in specification().items()
        for name in table
        if not "".join(table.comments[name]).strip("# ")
    ]
    assert missing == []


def test_the_reference_in_docs_is_made_from_the_table():
    assert (PROJECT / "docs" / "configuration.md").read_text(encoding="utf-8") == reference()


def test_the_reference_shows_type_default_and_meaning_of_an_option():
    row = "| `window` | a number from 1 to 65535 | `1000` | Maximum number of workitems that one process has"
    assert row in reference()
    assert "| `retry_jitter` | a number from 0 to 1 | `0.1` |" in reference()


def test_the_shipped_file_is_in_order():
    settings = load(str(PROJECT / "etc" / "taskqueue" / "config.ini"), PLUGINS, as_root=False)
    assert settings.amqp == AmqpSettings((("localhost", 5672),))
    assert settings.warnings == ()
