"""One round of questions to the processes of a pool: what each group and worker does."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from taskqueue.broker.loop import EventLoop

_TIMEOUT: Final = 0.5  # seconds after which a consumer that has not answered is left out


class Survey:
    """Collects what the supervisor says of each group, and then what the groups' consumers say."""

    def __init__(self, loop: EventLoop, done: Callable[[list[dict[str, Any]]], None]) -> None:
        """Call `done` once, with the groups, when all have answered or after half a second."""
        self._loop, self._done = loop, done
        self._groups: list[dict[str, Any]] = []
        self._expected: set[int] | None = None  # the consumers that have not answered; None: not known yet
        self.faults: list[str] = []  # the reasons why commands are not in force
        self.roll: dict[str, Any] | None = None  # how far the last roll of the pool is
        self._is_over = False
        self._timer = loop.call_later(_TIMEOUT, self._end)

    def take(self, word: str, content: Mapping[str, Any]) -> None:
        """Take a message of the supervisor.

        word -- `done` after a command; `group` for each group, `asked`, and `described` for each consumer
        """
        if word == "group":
            about = {"group": content["name"], "type": content["type"], "state": content["state"]}
            workers = [dict(each) for each in content["workers"]]
            about |= {"consumer": content["pid"], "workers": workers, "ends": content["ends"]}
            self._groups.append(about)
        elif word == "done":
            self.faults += filter(None, [content["fault"]])
        elif word == "asked":
            self._expected = set(content["consumers"])
            self.faults += content["faults"]
            self.roll = content["roll"]
        elif word == "described":
            self._enter(content)
        if self._expected is not None and not self._expected:
            self._end()

    def _enter(self, content: Mapping[str, Any]) -> None:
        group = next((each for each in self._groups if each["consumer"] == content["consumer"]), None)
        if group is None:
            return
        by_pid = {each["pid"]: each for each in group["workers"]}
        for found in content["workers"]:
            by_pid.get(found["pid"], {}).update(found)
        if not content["more"]:
            group["state"], group["types"] = content["state"], content["types"]
            if self._expected is not None:
                self._expected.discard(content["consumer"])

    def _end(self) -> None:
        if not self._is_over:
            self._is_over = True
            self._loop.cancel(self._timer)
            self._done(self._groups)
