"""The workflows that have not ended, the newest first, with their progress."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from rich.text import Text

from taskqueue.cli.screens import lines
from taskqueue.cli.screens.lines import Column, Row
from taskqueue.cli.screens.screen import Screen, Seen, Want
from taskqueue.cli.status import clock, span
from taskqueue.monitor.client import Reader
from taskqueue.monitor.web.workflows import progress
from taskqueue.workflows.wire import MOST_LISTED

#: Returns some workflows that have not ended, as the API has them; its argument is their maximum number.
Ask = Callable[[int], Sequence[Mapping[str, Any]]]

_FAILED: Final = ("failed", "rejected")


class Workflows(Screen):
    """The workflows that have not ended."""

    title, key, delay = "Workflows", "w", 5.0
    columns = (
        Column("name", 14, grows=True),
        Column("for", 6, is_number=True),
        Column("steps over", 24, grows=True),
        Column("state", 9, 1),
        Column("tenant", 8, 2),
        Column("id", 32, 3),
    )
    orders = ("",)
    empty = "No workflow runs."
    unknown = "workflows need none"

    def __init__(self, ask: Ask) -> None:
        """Ask nothing yet; ask -- asks the flow processes."""
        self._ask = ask

    def read(self, reader: Reader, want: Want) -> Seen:  # noqa: ARG002 -- the record has no workflows
        """Ask for the workflows. Raises NoFlow, too, if nobody answers for them."""
        found = self._ask(MOST_LISTED)
        opened = next((each for each in found if each["id"] == want.opened), None)
        more = f"the newest {len(found)}" if len(found) == MOST_LISTED else str(len(found))
        return Seen(
            f"{more} workflows have not ended",
            [_row(each) for each in found],
            details=lambda width: list(_details(opened, width)) if opened else (),
        )


def _row(each: Mapping[str, Any]) -> Row:
    age = span(max(0.0, time.time() - each["started"]))
    cells = (each["name"], age, progress(each["steps"]), each["state"], each["tenant"], each["id"])
    has_failed = any(each["steps"].get(state) for state in _FAILED)
    return Row(each["id"], cells, "yellow" if has_failed else "")


def _details(each: Mapping[str, Any], width: int) -> Iterator[Text]:
    told = {
        "name": each["name"],
        "id": each["id"],
        "tenant": each["tenant"],
        "state": each["state"] + (", open for further steps" if each["open"] else ""),
        "started": clock(each["started"]),
        "": f"taskqueue workflow show {each['id']}",
    }
    yield from lines.pairs(told, width)
    yield Text()
    yield Text("Steps", "bold")
    yield from lines.pairs({state: str(count) for state, count in each["steps"].items()}, width)
