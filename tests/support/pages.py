"""The common parts of the tests of the monitor's pages: users, a login, and the elements of a page."""

import contextlib
import http.client
import json
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Final

from support.web import Answer, Browser, Web

from taskqueue.monitor.web import users
from taskqueue.monitor.web.rights import ADMIN, OPERATOR, VIEWER, Rights
from taskqueue.monitor.web.users import UserFile

PASSWORD: Final = "correct horse"
ACCOUNTS: Final = {
    "ann": Rights("ann", VIEWER, frozenset(("north",))),
    "eve": Rights("eve", OPERATOR),
    "root": Rights("root", ADMIN, bodies=True),
}


def add_users(directory: Path) -> None:
    """Add the accounts to those of a record."""
    file = UserFile(directory / "users.json")
    for rights in ACCOUNTS.values():
        file.add(users.user(rights, PASSWORD))


def logged_in(web: Web, name: str = "root") -> Browser:
    """Return a browser in which a user is logged in."""
    browser = Browser(web)
    assert browser.log_in(name, PASSWORD).status == 303
    return browser


@contextlib.contextmanager
def stream(browser: Browser, path: str, name: str = "") -> Iterator[Callable[[], str | None]]:
    """Give a function that returns the next message of a name of a stream; None after its end."""
    connection = http.client.HTTPConnection("127.0.0.1", browser.web.port, timeout=30)
    try:
        cookies = "; ".join(f"{name}={value}" for name, value in browser.cookies.items())
        connection.request("GET", path, headers={"Cookie": cookies, "Accept": "text/event-stream"})
        response = connection.getresponse()
        assert (response.status, response.getheader("Content-Type")) == (200, "text/event-stream")

        def following() -> str | None:
            its = ""
            while line := response.readline().decode():
                if line.startswith("event: "):
                    its = line[7:].strip()
                elif line.startswith("data: ") and its == name:
                    return str(json.loads(line[6:]))
                elif line == "\n":
                    its = ""
            return None

        yield following
    finally:
        connection.close()


class Tags(HTMLParser):
    """The elements of a page with their attributes, and its text."""

    def __init__(self, answer: Answer) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(answer.text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attributes)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


class FilledForm(HTMLParser):
    """The form of a page with the class `fields`: what its fields have, and the fault beside one of them."""

    def __init__(self, answer: Answer) -> None:
        super().__init__()
        self.values: dict[str, str] = {}
        self.wrong = ""  # the name of the field that has the fault
        self.fault = ""
        self._reading = ""  # the name of a text area, or "fault"
        self._select = ""
        self.feed(answer.text.partition('<form class="fields"')[2])

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = {key: value or "" for key, value in attributes}
        name = found.get("name", "")
        if found.get("aria-invalid") == "true":
            assert found["aria-describedby"] == "fault"
            self.wrong = name
        if tag == "input" and (found.get("type") != "checkbox" or "checked" in found):
            self.values[name] = found.get("value", "")
        elif tag == "select":
            self._select = name
        elif tag == "option" and "selected" in found:
            self._reading, self.values[self._select] = self._select, ""
        elif tag == "textarea":
            self._reading, self.values[name] = name, ""
        elif found.get("role") == "alert":
            self._reading = "fault"

    def handle_endtag(self, _tag: str) -> None:
        self._reading = ""

    def handle_data(self, data: str) -> None:
        if self._reading == "fault":
            self.fault += data
        elif self._reading:
            self.values[self._reading] += data.removeprefix("\n")  # a browser drops it, too
