"""Dead letters in groups of one worker type and one error."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final
from urllib.parse import quote

from taskqueue.messages.events import FAILED, REJECTED
from taskqueue.monitor.record import Filter, Letter
from taskqueue.monitor.web.view import View

MOST: Final = 2000  # workitems that are grouped
#: The states of dead letters.
STATES: Final = frozenset((FAILED, REJECTED))
_LONGEST: Final = 200  # characters of a group's words, as an address has them
#: A word as the record's index of errors has it.
_WORD: Final = re.compile(r"[^\W_]+")


@dataclass(frozen=True, slots=True)
class LetterGroup:
    """Workitems of one type and state whose errors have the same words, apart from those with digits."""

    worker_type: str
    state: str  # failed or rejected
    error: str  # of the newest
    words: str  # of the error, by which a filter selects the group; "" if there are none
    count: int
    first: float | None  # when the earliest one ended, in seconds since 1970
    last: float | None
    newest: str  # the id of the newest

    @property
    def kind(self) -> str:
        """The class of the error; "" if it names none."""
        name, colon, _ = self.error.partition(":")
        return name if colon and name.isidentifier() else ""

    @property
    def filter(self) -> Mapping[str, str]:
        """The parameters of a filter that selects the group; empty if there are none."""
        if not self.words or not self.worker_type:
            return {}
        return {"state": self.state, "type": self.worker_type, "error": self.words}


@dataclass(frozen=True, slots=True)
class Grouped:
    """The newest dead letters in groups."""

    groups: Sequence[LetterGroup]  # the largest first
    left_out: int  # smaller groups
    count: int  # dead letters of all groups
    is_more: bool  # whether there are older ones


def newest_groups(view: View, wanted: Filter, limit: int) -> Grouped:
    """Return groups of the newest dead letters that a filter selects, at most `limit`."""
    letters = view.letters(replace(wanted, states=STATES), MOST + 1)
    groups = _grouped(letters[:MOST])
    shown = [_group(*key, members) for key, members in groups[:limit]]
    return Grouped(shown, len(groups) - len(shown), len(letters[:MOST]), len(letters) > MOST)


_Key = tuple[str, str, str]  # worker type, state and words


def _grouped(letters: Sequence[Letter]) -> list[tuple[_Key, list[Letter]]]:
    """Return the groups of letters, which are the newest first; the largest group first."""
    members: dict[_Key, list[Letter]] = {}
    for each in letters:
        members.setdefault((each.worker_type, each.state, words_of(each.error)), []).append(each)
    return sorted(members.items(), key=lambda group: -len(group[1]))


def _group(worker_type: str, state: str, words: str, members: Sequence[Letter]) -> LetterGroup:
    times = [each.ended for each in members if each.ended is not None]
    first, last = min(times, default=None), max(times, default=None)
    newest = members[0]
    return LetterGroup(worker_type, state, newest.error, words, len(members), first, last, newest.id)


def words_of(error: str) -> str:
    """Return the words of an error without those that have digits, which differ from one to the next.

    If all words have digits, they are all returned. There are no more than fit into an address.
    """
    words = _WORD.findall(error)
    chosen = dict.fromkeys([word for word in words if word.isalpha()] or words)
    joined = " ".join(chosen)
    return joined if len(joined) < _LONGEST and joined.isascii() else " ".join(_fitting(chosen))


def _fitting(words: Iterable[str]) -> Iterator[str]:
    room = _LONGEST
    for word in words:
        room -= len(word if word.isascii() else quote(word)) + 1
        if room < 0:
            return
        yield word
