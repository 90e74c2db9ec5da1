"""A session of a PostgreSQL database."""

import contextlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import psycopg
from psycopg.types.numeric import IntLoader

from taskqueue.config.postgresql import without_password
from taskqueue.errors import TaskqueueError
from taskqueue.postgresql import patience

_CONNECT_TIMEOUT: Final = 5  # seconds
_NEVER: Final = 2**31 - 1  # executions
#: The server, as this side, notices within 6 seconds that the other host is gone, so that a lock ends.
_ALWAYS: Final = {
    "jit": "off",  # it takes longer than any of the statements
    "tcp_keepalives_idle": 3,  # seconds
    "tcp_keepalives_interval": 1,
    "tcp_keepalives_count": 3,
    "tcp_user_timeout": 6000,  # milliseconds
}
#: Every statement of a writer names its rows by a key, and its tables grow before they have statistics.
_WRITING: Final = {"lock_timeout": "5s", "statement_timeout": "30s", "enable_seqscan": "off"}
_READING: Final = {"default_transaction_read_only": "on", "statement_timeout": "15s"}
_PLAIN_INSERT: Final = re.compile(r"INSERT INTO (\w+) VALUES\([?, ]+\)")
#: Answers of a server that the next attempt will not change.
_REFUSED: Final = re.compile(
    r"FATAL:.*(authentication failed|does not exist|pg_hba\.conf|permission denied|no password supplied)"
    r"|fe_sendauth"
)


@dataclass(frozen=True, slots=True)
class Purpose:
    """The use that is made of a database.

    Args:
        what: its contents, in words.
        application: the name of the sessions.
        schema: that of all tables.
        unavailable: the error of a session.
        refused: the error for a wrong user, password or database.
        unfit: the error for values that a table refuses.
    """

    what: str
    application: str
    schema: str
    unavailable: type[TaskqueueError]
    refused: type[TaskqueueError]
    unfit: type[TaskqueueError]


class Session:
    """A connection to a database; its errors are those of its purpose."""

    def __init__(self, purpose: Purpose, url: str, *, is_reader: bool = False) -> None:
        """Connect. Raises the errors of the purpose."""
        self._purpose = purpose
        self.shown = without_password(url)
        settings = {"search_path": purpose.schema} | _ALWAYS | (_READING if is_reader else _WRITING)
        options = " ".join(f"-c {key}={value}" for key, value in settings.items())
        try:
            self.connection = psycopg.connect(
                url,
                autocommit=True,
                connect_timeout=_CONNECT_TIMEOUT,
                application_name=purpose.application,
                client_encoding="utf8",
                prepare_threshold=_NEVER,  # a plan for any values compares each row with each of many ids
                options=options,
                keepalives_idle=3,  # seconds
                keepalives_interval=1,
                keepalives_count=3,
                tcp_user_timeout=6000,  # milliseconds
            )
            self.connection.adapters.register_loader("numeric", IntLoader)  # of sums of counts
            self._line = patience.Line(self.connection.fileno())
        except psycopg.OperationalError as error:
            kind = purpose.refused if _REFUSED.search(str(error)) else purpose.unavailable
            raise kind(f"{purpose.what} {self.shown}: {_text(error)}") from None
        except psycopg.ProgrammingError:  # its text has the URL
            reason = "PostgreSQL's library cannot read this URL"
            raise purpose.refused(f"{purpose.what} {self.shown}: {reason}") from None

    @property
    def is_open(self) -> bool:
        """Whether the connection is there, as far as is known."""
        return not self.connection.closed and not self._line.is_cut

    def close(self) -> None:
        """End the session, and with it its lock."""
        self.connection.close()
        self._line.close()

    def interrupt(self) -> None:
        """Have the statement that runs fail, and end the session; any thread may call this."""
        self._line.cut()

    def execute(self, statement: str, values: Sequence[Any] = (), *, is_prepared: bool = False) -> Any:
        """Run a statement that is written for SQLite; return its cursor.

        is_prepared -- whether one plan is good for all values
        """
        sent = [_sent(value) for value in values]
        with self._in_time():
            return self.connection.execute(translate(statement), sent, prepare=is_prepared or None)

    def executemany(self, statement: str, rows: Iterable[Sequence[Any]]) -> None:
        """Run a statement for each row of values."""
        plain = _PLAIN_INSERT.fullmatch(statement)
        if plain:
            self.copy(plain[1], rows)
        elif sent := [[_sent(value) for value in row] for row in rows]:
            with self._in_time():
                self.connection.cursor().executemany(translate(statement), sent)

    def copy(self, table: str, rows: Iterable[Sequence[Any]]) -> None:
        """Add rows to a table, with all of its columns in order."""
        text = "".join(map(_copied, rows))
        if text:
            statement = f"COPY {table} FROM STDIN".encode()
            with self._in_time(), self.connection.cursor().copy(statement) as copy:
                copy.write(text.encode("utf-8", "replace"))

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Do all that the context does, or nothing of it; then the session is closed."""
        try:
            self.execute("BEGIN")
            yield
            self.execute("COMMIT")
        except BaseException:
            self.close()
            raise

    @contextlib.contextmanager
    def _in_time(self) -> Iterator[None]:
        """Do what the context does, or raise the purpose's error after PATIENCE seconds."""
        with self.translated(), self._line.statement(patience.PATIENCE):
            yield

    @contextlib.contextmanager
    def translated(self) -> Iterator[None]:
        """Raise the purpose's error instead of psycopg's."""
        try:
            yield
        except psycopg.Error as error:
            what = "no answer" if self._line.is_cut else _text(error)
            is_unfit = isinstance(error, psycopg.DataError | psycopg.IntegrityError)
            kind = self._purpose.unfit if is_unfit else self._purpose.unavailable
            raise kind(f"{self._purpose.what} {self.shown}: {what}") from None


def _text(error: psycopg.Error) -> str:
    return " ".join(str(error).split()) or type(error).__name__


@lru_cache(1000)
def translate(statement: str) -> bytes:
    """Return a statement that is written for SQLite as PostgreSQL has it."""
    statement = re.sub(r" (NOT INDEXED|INDEXED BY \w+)", "", statement)
    statement = re.sub(r"\b(user|end)\b", r'"\1"', statement)
    statement = statement.replace("%", "%%").replace("?", "%s").replace(" LIKE ", " ILIKE ")
    return statement.encode()


def clean(text: str) -> str:
    """Return a text that a column can have: NUL, which none can have, is U+FFFD."""
    return text.replace("\0", "\ufffd")


def _sent(value: Any) -> Any:
    if type(value) is str and not value.isprintable():
        return clean(value).encode("utf-8", "replace").decode()
    return value


def _copied(row: Sequence[Any]) -> str:
    """Return a row as COPY reads it (PostgreSQL's documentation of COPY, text format)."""
    texts = "".join([value for value in row if isinstance(value, str)])
    if not texts.isprintable() or "\\" in texts:
        row = [_escaped(value) if isinstance(value, str) else value for value in row]
    fields = ["\\N" if value is None else value if isinstance(value, str) else repr(value) for value in row]
    return "\t".join(fields) + "\n"


def _escaped(value: str) -> str:
    value = clean(value).replace("\\", "\\\\").replace("\t", "\\t")
    return value.replace("\n", "\\n").replace("\r", "\\r")
