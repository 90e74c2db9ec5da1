"""The table `name` of a file: numbers for the names of types, tenants, hosts and the like."""

import sqlite3
from typing import Final

MOST: Final = 100_000  # names of a file; producers may invent worker types and tenants
OTHERS: Final = "(others)"  # the name of all beyond them
#: Where live.db refers to names.
_REFERENCES: Final = " UNION ".join(
    f"SELECT {column} FROM {table}"  # noqa: S608 -- no input
    for table, columns in (
        ("live", ("type", "tenant", "host", "worker", "user")),
        ("log", ("tenant",)),
        ("cancel", ("tenant",)),
        ("minute", ("type", "tenant")),
        ("type_sum", ("type",)),
        ("crash", ("type", "tenant", "cause")),
        ("tally", ("type",)),
    )
    for column in columns
)


class Names:
    """The names of a file that is written; the empty name has the number 0."""

    def __init__(self, database: sqlite3.Connection) -> None:
        """Read the names of a database."""
        self._database = database
        self._numbers = {"": 0}
        self._texts = {0: ""}
        self.reload()

    def reload(self) -> None:
        """Read the names again, after a transaction was rolled back."""
        self._texts = {0: "", **dict(self._database.execute("SELECT no, text FROM name"))}
        self._numbers = {text: number for number, text in self._texts.items()}

    def number(self, text: str) -> int:
        """Return the number of a name, which is added if it is new; without room, that of OTHERS."""
        number = self._numbers.get(text)
        if number is None and len(self._numbers) >= MOST and text != OTHERS:
            return self.number(OTHERS)
        if number is None:
            number = self._database.execute("INSERT INTO name(text) VALUES(?)", (text,)).lastrowid or 0
            self._numbers[text] = number
            self._texts[number] = text
        return number

    def kept(self, text: str) -> str:
        """Return a name, or OTHERS if there is no room for it."""
        return text if text in self._numbers or len(self._numbers) < MOST else OTHERS

    def forget(self) -> None:
        """Forget the names that live.db does not use, if there are many; it must be in a transaction.

        The last one stays, so that no number is given again: readers remember the names of numbers.
        """
        if len(self._numbers) > MOST // 2:
            self._database.execute("DELETE FROM tally WHERE count = 0")
            self._database.execute(
                f"DELETE FROM name WHERE no < (SELECT max(no) FROM name) AND no NOT IN ({_REFERENCES})"  # noqa: S608 -- no input
            )
            self.reload()

    def text(self, number: int) -> str:
        """Return the name of a number."""
        return self._texts[number]
