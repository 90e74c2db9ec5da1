"""Values as a page shows them. A function that returns HTML is named so; its texts are escaped."""

import time
from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote, urlencode

from tornado.escape import xhtml_escape

from taskqueue.messages.events import RUNNING
from taskqueue.monitor.record import Workitem
from taskqueue.monitor.web import wording
from taskqueue.monitor.web.pages import static
from taskqueue.texts import lines, one_line, shorten

_LINE: Final = 200  # characters of an error or the like in a table
#: For templates.
NONE, duration, number, size = wording.NONE, wording.duration, wording.number, wording.size


def asset(name: str) -> str:
    """Return the address of a static file; it changes with the file."""
    return static.FILES[name].address


def line(text: str, limit: int = _LINE) -> str:
    """Return foreign text in one line, control characters escaped; limit -- characters in HTML."""
    return _fitted(one_line(text), limit)


def block(text: str, limit: int) -> str:
    """Return foreign text with its lines, other control characters escaped; limit -- characters in HTML."""
    return _fitted(lines(text), limit)


def _fitted(text: str, limit: int) -> str:
    """Return a text that is shortened so that it is no longer in HTML than a limit."""
    shown, most = text, limit
    while length(shown) > limit:
        shown = shorten(text, most)
        most -= most // 4
    return shown


def length(text: str) -> int:
    """Return the length of a text in HTML."""
    return len(xhtml_escape(text))


def clock(at: float) -> str:
    """Return the time of a day, in UTC."""
    return time.strftime("%H:%M:%S", time.gmtime(at))


def moment_html(at: float | None, *, is_relative: bool = False) -> str:
    """Return a time, which the script shows in the browser's zone.

    is_relative -- whether it is shown as "5 min ago"; the exact time is its title
    """
    if at is None:
        return NONE
    exact = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(at))
    machine = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))
    text = _relative(time.time() - at) if is_relative else exact
    kind = ' class="relative"' if is_relative else ""
    return f'<time datetime="{machine}" title="{exact}"{kind}>{text}</time>'


def _relative(age: float) -> str:
    return f"in {duration(-age)}" if age < 0 else f"{duration(age)} ago"


def state_html(state: str) -> str:
    """Return a state of a workitem with its mark: it is told by its word, not by its colour alone."""
    return f'<span class="state {xhtml_escape(state)}">{xhtml_escape(state)}</span>'


def address(path: str, values: Mapping[str, Any] | Sequence[tuple[str, Any]] = ()) -> str:
    """Return a path with a query."""
    query = urlencode(values, doseq=True)
    return f"{path}?{query}" if query else path


def workitem_address(id_: str, tenant: str) -> str:
    """Return the address of a workitem's page; tenant -- whose it is; "" if that is not known or nobody's."""
    return address(f"/workitems/{quote(id_, safe='')}", {"tenant": tenant} if tenant else {})


def run_time(workitem: Workitem) -> float | None:
    """Return for how many seconds the last run lasted, or lasts; None if that is not known."""
    if workitem.started is None:
        return None
    ended = workitem.ended if workitem.ended is not None else workitem.again_at
    if workitem.state == RUNNING:
        ended = time.time()
    return max(0.0, ended - workitem.started) if ended is not None else None
