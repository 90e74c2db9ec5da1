"""A workitem's details: state, times, runs, error, and the end of its output."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from rich.text import Text

from taskqueue.cli.screens import lines
from taskqueue.cli.status import clock
from taskqueue.messages.events import SUCCEEDED
from taskqueue.monitor.client import Reader
from taskqueue.monitor.web.api import NeverSeen
from taskqueue.monitor.web.parameters import MOST_ROWS

_LINES: Final = 100  # of output


def read(reader: Reader, id_: str) -> "Workitem | None":
    """Return a workitem with its output; None if the record has it no more. Raises as `Reader.ask` does."""
    try:
        found = reader.ask("workitem", id=id_)
        output = reader.ask("log", {"limit": [str(MOST_ROWS)]}, id=id_)["log"]
    except NeverSeen:
        return None
    return Workitem(found, output[-_LINES:])


class Workitem:
    """A workitem that was read."""

    def __init__(self, found: Mapping[str, Any], output: Sequence[Mapping[str, Any]]) -> None:
        self._found, self._output = found, output

    def lines(self, width: int) -> Iterator[Text]:
        """Yield its lines."""
        found = self._found
        yield from lines.pairs(self._values(), width)
        yield from _titled("Time line", (_moment(each) for each in found["time_line"]), width)
        traceback = next((run["traceback"] for run in reversed(found["runs"]) if run["traceback"]), "")
        if traceback and found["state"] != SUCCEEDED:
            yield from _titled("Traceback", [traceback.rstrip()], width)
        printed = (f"{clock(line['at'])} {line['level']}: {line['text']}" for line in self._output)
        yield from _titled("Output", printed, width)

    def _values(self) -> dict[str, str]:
        found = self._found
        progress = found["progress"]
        return {
            "id": found["id"],
            "type": found["worker_type"],
            "state": found["state"],
            "tenant": found["tenant"],
            "labels": " ".join(found["labels"]),
            "queued": clock(found["queued"]),
            "due": clock(found["due"]),
            "again at": clock(found["again_at"]),
            "runs": str(found["attempts"] or ""),
            "worker": f"{found['worker']} on {found['host']}" if found["worker"] else found["host"],
            "progress": f"{progress['fraction']:.0%} {progress['text']}" if progress else "",
            "error": found["error"],
        }


def _moment(moment: Mapping[str, Any]) -> str:
    return f"{clock(moment['at'])}  {moment['what']:10}  {moment['text']}".rstrip()


def _titled(title: str, found: Sequence[str] | Iterator[str], width: int) -> Iterator[Text]:
    is_first = True
    for each in found:
        if is_first:
            yield Text()
            yield Text(title, "bold")
        is_first = False
        yield from lines.wrapped(each, width)
