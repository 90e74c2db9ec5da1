"""A session of the record's PostgreSQL database."""

from typing import Final

from taskqueue.errors import RecordRefused, RecordUnavailable
from taskqueue.postgresql.session import Purpose, clean
from taskqueue.postgresql.session import Session as AnySession

__all__ = ["SCHEMA", "Session", "clean"]

SCHEMA: Final = "taskqueue"
_PURPOSE: Final = Purpose(
    "record", "taskqueue monitor", SCHEMA, RecordUnavailable, RecordRefused, RecordUnavailable
)


class Session(AnySession):
    """A connection to the record's database; its errors are RecordUnavailable."""

    def __init__(self, url: str, *, is_reader: bool = False) -> None:
        """Connect. Raises RecordUnavailable, and RecordRefused for a wrong user, password or database."""
        super().__init__(_PURPOSE, url, is_reader=is_reader)
