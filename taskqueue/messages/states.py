"""The states of workitems as the record shows them: those of events, and one that it tells by the error."""

from typing import Final

from taskqueue.messages.events import FINAL, STATES

#: The state of a cancelled workitem whose error says that it is a duplicate.
DUPLICATE: Final = "duplicate"
DUPLICATE_OF: Final = "duplicate of "  # the error's beginning; the first one's id follows

SHOWN: Final = (*STATES, DUPLICATE)
OVER: Final = FINAL | {DUPLICATE}  # those after which a workitem does not change
