"""The form that adds a schedule: its fields, what was typed into them, and the fault of one."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Self

from taskqueue.errors import BadSchedule
from taskqueue.messages.content import JSON
from taskqueue.schedules.definition import MISSED, Definition

TEXT, AREA, CHOICE, BOX = "text", "area", "choice", "box"
_YES: Final = "yes"  # the value of a checked box


@dataclass(frozen=True, slots=True)
class Field:
    """A field of the form.

    Args:
        name: the option of the schedule.
        label: what the page calls it.
        kind: one of TEXT, AREA, CHOICE, BOX.
        hint: an example.
        is_needed: whether it cannot be empty.
        is_number: whether it has a number of seconds.
    """

    name: str
    label: str
    kind: str = TEXT
    hint: str = ""
    is_needed: bool = False
    is_number: bool = False


FIELDS: Final = (
    Field("name", "Name", is_needed=True),
    Field("worker_type", "Type", is_needed=True),
    Field("cron", "Cron expression", hint="30 3 * * mon-fri"),
    Field("timezone", "Its time zone", hint="Europe/Berlin"),
    Field("every", "Or every so many seconds", is_number=True),
    Field("body", "Body", AREA),
    Field("content_type", "Media type of the body"),
    Field("tenant", "Tenant"),
    Field("tags", "Tags, separated by blanks"),
    Field("jitter", "Maximum random delay in seconds", is_number=True),
    Field("missed", "Missed ticks, if no scheduler ran", CHOICE),
    Field("overlap", "Overlap: fire also while the last workitem is not over", BOX),
)
_EMPTY: Final = {"body": "null", "content_type": JSON, "missed": MISSED[0], "overlap": _YES}


@dataclass(frozen=True, slots=True)
class ScheduleForm:
    """The form as it is shown.

    Args:
        values: the texts in its fields.
        option: the field that has a fault; "" for none of them.
        fault: what is wrong; "" for nothing.
    """

    values: Mapping[str, str] = field(default_factory=lambda: _EMPTY)
    option: str = ""
    fault: str = ""

    @classmethod
    def of(cls, argument: Callable[[str, str], str]) -> Self:
        """Return the form that a user has sent.

        argument -- returns a field's text, or its second argument if the field is missing
        """
        return cls({each.name: argument(each.name, "") for each in FIELDS})

    @property
    def fields(self) -> tuple[Field, ...]:
        """The fields in their order."""
        return FIELDS

    @property
    def choices(self) -> tuple[str, ...]:
        """The values of the field that is a choice."""
        return MISSED

    def value(self, name: str) -> str:
        """Return what a field has."""
        return self.values.get(name, "")

    def is_checked(self, name: str) -> bool:
        """Return whether a box is checked."""
        return self.value(name) == _YES

    def with_fault(self, error: Exception) -> Self:
        """Return the form with what is wrong beside the field that is wrong, if it is one."""
        option = error.option if isinstance(error, BadSchedule) else ""
        fault = error.fault if isinstance(error, BadSchedule) else str(error)
        return replace(self, option=option, fault=fault)

    def definition(self) -> dict[str, Any]:
        """Return the schedule's fields as JSON has them. Raises BadSchedule."""
        filled: dict[str, Any] = {name: text for name, text in self.values.items() if text}
        filled |= {each.name: self._seconds(each.name) for each in FIELDS if each.is_number}
        filled["tags"] = self.value("tags").split()
        filled["overlap"] = self.is_checked("overlap")
        for each in FIELDS:
            if each.is_needed and not self.value(each.name):
                raise BadSchedule(f"{each.name}: expected a text, found none", option=each.name)
        Definition.checked(filled)  # the recorder does so again; here the fault has its field
        return filled

    def _seconds(self, name: str) -> float:
        try:
            return float(self.value(name) or 0)
        except ValueError:
            raise BadSchedule(f"{name}: expected a number of seconds", option=name) from None
