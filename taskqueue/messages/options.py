"""The options of a submission: who is first, for whom it is, by what it is found, and when it runs."""

import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass, fields
from difflib import get_close_matches
from typing import Any, Final, Self, TypedDict

from taskqueue.amqp.properties import Properties
from taskqueue.errors import LONGEST_DELAY
from taskqueue.messages.lanes import HIGHEST_PRIORITY
from taskqueue.messages.names import DEBOUNCE, DUE, LABELS, TENANT, UNIQUE, UNIQUE_FOR, WAIT
from taskqueue.messages.recording import LONGEST_LABELS, LONGEST_TENANT
from taskqueue.texts import one_line

LONGEST_KEY: Final = 200  # characters of the key of unique work
LONGEST_KEPT: Final = 31 * 86400.0  # seconds that such a key is kept


class AskedOfTask(TypedDict, total=False):
    """The options of a task's calls as its author gives them; `Options` says what each means."""

    priority: int | None
    tenant: str | None
    tags: Iterable[str] | None
    delay: float | None
    unique_for: float | None
    debounce: float | None


class Asked(AskedOfTask, total=False):
    """The options of a submission as a caller gives them; `Options` says what each means."""

    unique: str | None


@dataclass(frozen=True, slots=True)
class Options:
    """The options of a submission; None stands for an option that is not set.

    Args:
        priority: 0 to 9; of a type with lanes, workers take workitems of higher priorities first.
        tenant: for whom the workitem is, at most 100 characters.
        tags: words to find it by, together at most 500 characters.
        delay: minimum time in seconds until it runs.
        unique: a key, at most 200 characters: while a workitem of the same type, tenant and key is queued,
            runs or waits for a retry, another is not run.
        unique_for: seconds from its acceptance in which no other one with its key is run, though it is over.
        debounce: seconds until it runs, unless another one with its key is submitted in that time.
    """

    priority: int | None = None
    tenant: str | None = None
    tags: tuple[str, ...] | None = None
    delay: float | None = None
    unique: str | None = None
    unique_for: float | None = None
    debounce: float | None = None

    def __bool__(self) -> bool:
        return self != NONE

    @classmethod
    def checked(
        cls,
        *,
        priority: int | None = None,
        tenant: str | None = None,
        tags: Iterable[str] | None = None,
        delay: float | None = None,
        unique: str | None = None,
        unique_for: float | None = None,
        debounce: float | None = None,
        beside: Collection[str] = (),
        **unknown: Any,
    ) -> Self:
        """Return options of these values.

        beside -- the names of further options that the caller takes, for the error
        unknown -- options of other names, as by a misspelling

        Raises TypeError, which has the nearest name that is known, for an unknown option; ValueError, in one
        line, for the first wrong value.
        """
        for name in unknown:
            raise TypeError(_unknown(name, (*(each.name for each in fields(cls)), *beside)))
        _check_priority(priority)
        _check_tenant(tenant)
        _check_seconds("delay", delay)
        _check_unique(unique, unique_for=unique_for, debounce=debounce)
        words = None if tags is None else _words(tags)
        return cls(priority, tenant, words, delay, unique, unique_for, debounce)

    def over(self, defaults: Self) -> Self:
        """Return these options, with those of `defaults` where they are not set."""
        if not self:
            return defaults
        values = ((getattr(self, each.name), getattr(defaults, each.name)) for each in fields(self))
        return type(self)(*(own if own is not None else default for own, default in values))

    def as_json(self) -> dict[str, Any]:
        """Return the options that are set, by their names."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        plain = {name: value for name, value in values.items() if value is not None}
        return plain | ({} if self.tags is None else {"tags": list(self.tags)})

    def marked(self, raw: bytes, now: float | None = None) -> bytes:
        """Return encoded properties with these options; a delay counts from `now`, seconds since 1970."""
        if not self:
            return raw
        properties = Properties.decode(raw).with_headers(self._headers(time.time() if now is None else now))
        if self.priority:
            properties = properties.replace(priority=self.priority)
        return properties.encode()

    def _headers(self, now: float) -> dict[str, Any]:
        headers: dict[str, Any] = {}
        if self.delay:
            headers |= {DUE: now + self.delay, WAIT: float(self.delay)}
        if self.tenant:
            headers[TENANT] = self.tenant
        if self.tags:
            headers[LABELS] = " ".join(self.tags)
        if self.unique:
            headers[UNIQUE] = self.unique
            headers |= {UNIQUE_FOR: float(self.unique_for)} if self.unique_for else {}
            headers |= {DEBOUNCE: float(self.debounce)} if self.debounce else {}
        return headers


#: No option is set.
NONE: Final = Options()


def _unknown(name: str, known: Collection[str]) -> str:
    near = get_close_matches(name, known, 1)
    hint = f"the nearest one is {near[0]!r}" if near else "known are " + ", ".join(sorted(known))
    return f"there is no option {name!r:.80}; {hint}"


def _check_priority(value: Any) -> None:
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    if value is not None and not (is_whole and 0 <= value <= HIGHEST_PRIORITY):
        raise ValueError(f"priority={value!r:.80}: expected a whole number from 0 to {HIGHEST_PRIORITY}")


def _check_tenant(value: Any) -> None:
    if value is not None and not (_is_text(value) and len(value) <= LONGEST_TENANT):
        raise ValueError(f"tenant={value!r:.80}: expected a text of at most {LONGEST_TENANT} characters")


def _words(tags: Any) -> tuple[str, ...]:
    is_list = isinstance(tags, Iterable) and not isinstance(tags, str)
    words = tuple(tags) if is_list else ()
    are_words = all(_is_text(word) and len(word.split()) == 1 for word in words)
    if not (is_list and are_words) or len(" ".join(words)) > LONGEST_LABELS:
        raise ValueError(
            f"tags={tags!r:.80}: expected a list of words without blanks, "
            f"together at most {LONGEST_LABELS} characters"
        )
    return words


def _check_seconds(name: str, value: Any, least: float = 0.0, most: float = LONGEST_DELAY) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if value is not None and not (is_number and least <= value <= most):
        raise ValueError(f"{name}={value!r:.80}: expected seconds, from {least:g} to {most:.0f}")


def key_fault(key: object) -> str:
    """Return why a value cannot be the key of unique work; "" if it can."""
    if not isinstance(key, str) or not 0 < len(key) <= LONGEST_KEY or one_line(key) != key:
        return f"expected 1 to {LONGEST_KEY} characters without control characters, found {key!r:.60}"
    return ""


def _check_unique(key: Any, **seconds: Any) -> None:
    if key is not None and (fault := key_fault(key)):
        raise ValueError(f"unique: {fault}")
    for name, value in seconds.items():
        _check_seconds(name, value, most=LONGEST_KEPT)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value == value.encode("utf-8", "replace").decode()
