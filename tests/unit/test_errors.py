"""What the exceptions of taskqueue have in common."""

import copy
import pickle

import pytest

from taskqueue import errors
from taskqueue.errors import TaskqueueError


def kinds(kind=TaskqueueError):
    """Return a kind of exception and all that are derived from it."""
    return [kind] + [below for each in kind.__subclasses__() for below in kinds(each)]


MADE = {
    errors.TaskFailed: errors.TaskFailed("ValueError", "no", "Traceback ..."),
    errors.ConfigError: errors.ConfigError(["fault one", "fault two"], ["a warning"]),
    errors.Retry: errors.Retry("later", delay=3),
}


class Own(errors.Reject):
    """One of a user's own, that takes something else than a text."""

    def __init__(self, number, *, reason):
        super().__init__(f"{reason} ({number})")
        self.number = number


@pytest.mark.parametrize("again", [lambda error: pickle.loads(pickle.dumps(error)), copy.copy])
@pytest.mark.parametrize("kind", [*kinds(), Own])
def test_every_exception_survives_pickling(kind, again):
    error = Own(7, reason="no") if kind is Own else MADE.get(kind) or kind("why")
    error.add_note("a note")
    back = again(error)
    assert (type(back), str(back), back.args) == (kind, str(error), error.args)
    assert back.__dict__ == error.__dict__


def test_no_exception_of_the_module_is_left_out():
    defined = [
        each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, Exception)
    ]
    assert set(defined) <= set(kinds())
