"""The URL of the record's PostgreSQL database: what is accepted, and that its password is never shown."""

import json
from collections.abc import Callable

import pytest

from taskqueue.config.postgresql import without_password


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://ann:s3same@db/record", "postgresql://ann@db/record"),
        ("postgres://ann:s3@same@db1:1,db2:2/record", "postgres://ann@db1:1,db2:2/record"),
        ("postgresql:///record?host=/run/postgresql", "postgresql:///record?host=/run/postgresql"),
        ("postgresql://db/r?password=s3same&sslmode=require", "postgresql://db/r?sslmode=require"),
        ("postgresql://db/r?user=ann&PassWord=s3same&sslpassword=s3same", "postgresql://db/r?user=ann"),
        ("postgresql://", "postgresql://"),
    ],
)
def test_a_url_is_shown_without_its_password(url: str, shown: str) -> None:
    assert without_password(url) == shown


Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(write: Callable[[str], str], call: Callable[..., tuple[int, str, str]]) -> Run:
    """Call a command with options of the monitor; return its exit status, and all that it says."""

    def run(options: str, *arguments: str) -> tuple[int, str]:
        status, output, errors = call(*arguments, "-c", write(f"[monitor]\n{options}\n"))
        return status, output + errors

    return run


def test_the_effective_configuration_has_no_password(run: Run) -> None:
    options = "database: postgresql://ann:s3same@db/r\ndatabase_reader: postgresql://bob:s3same@db/r"
    status, output = run(options, "config", "--format", "json")
    assert status == 0
    shown = json.loads(output[output.index("{") :])["monitor"]
    assert (shown["database"], shown["database_reader"]) == ("postgresql://ann@db/r", "postgresql://bob@db/r")
    assert "s3same" not in output


@pytest.mark.parametrize(
    "option",
    ["database: mysql://ann:s3same@db/r", "database_reader: /var/lib/record", "database: post gres://x"],
)
def test_another_url_is_refused_and_not_shown(run: Run, option: str) -> None:
    status, output = run(option, "config")
    assert status == 78
    assert "expected postgresql://USER@HOST/DATABASE" in output
    assert "s3same" not in output


def test_rebuild_says_how_to_begin_a_record_in_postgresql_anew(run: Run) -> None:
    status, output = run("database: postgresql://ann:s3same@db/r", "monitor", "rebuild")
    assert status == 78
    assert "rename or drop the schema taskqueue" in output
    assert "s3same" not in output
