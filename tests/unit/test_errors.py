"""Properties that all exceptions of taskqueue have."""

import copy
import importlib
import pickle
import pkgutil

import pytest

import taskqueue
from taskqueue import errors
from taskqueue.config.checks import Refused
from taskqueue.worker.lines import Ended


def defined():
    """Return every exception that a module of the package defines."""
    names = [each.name for each in pkgutil.walk_packages(taskqueue.__path__, "taskqueue.")]
    modules = [importlib.import_module(name) for name in names if not name.endswith("__main__")]
    found = {each for module in modules for each in vars(module).values() if isinstance(each, type)}
    ours = [each for each in found if issubclass(each, BaseException) and each.__module__ in names]
    return sorted(ours, key=lambda kind: kind.__qualname__)


MADE = {
    Refused: Refused("a number", "'three'"),
    errors.TaskFailed: errors.TaskFailed("ValueError", "no", "Traceback ..."),
    errors.ConfigError: errors.ConfigError(["fault one", "fault two"], ["a warning"]),
    errors.Retry: errors.Retry("later", delay=3),
    Ended: Ended(3, is_unread=True),
}


class Own(errors.Reject):
    """One of a user's own, that takes something else than a text."""

    def __init__(self, number, *, reason):
        super().__init__(f"{reason} ({number})")
        self.number = number


@pytest.mark.parametrize("again", [lambda error: pickle.loads(pickle.dumps(error)), copy.copy])
def test_every_exception_survives_pickling(again):
    for kind in [*defined(), Own]:
        error = Own(7, reason="no") if kind is Own else MADE.get(kind) or kind("why")
        error.add_note("a note")
        back = again(error)
        assert (type(back), str(back), back.args) == (kind, str(error), error.args)
        assert back.__dict__ == error.__dict__, kind


def test_the_exceptions_of_every_package_are_among_them():
    names = {kind.__qualname__ for kind in defined()}
    assert names >= {
        "TaskFailed",
        "ConfigError",
        "Retry",
        "Refused",
        "FrameError",
        "TooMany",
        "Interrupted",
    }
