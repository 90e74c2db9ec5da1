"""The state of a group in words, for its supervisor and those who ask that."""

from typing import Final

from taskqueue.broker.session import Session
from taskqueue.consumer.control import Reports
from taskqueue.consumer.intake import Intake
from taskqueue.consumer.workers import Workers

_ALARM: Final = "takes nothing new: the broker has an alarm"


class Condition:
    """Says in a word what a group is doing, whenever that has changed."""

    def __init__(
        self, reports: Reports, publishing: Session, consuming: Session, workers: Workers, intake: Intake
    ) -> None:
        """Begin with nothing said."""
        self._reports = reports
        self._publishing, self._consuming = publishing, consuming
        self._workers = workers
        self._intake = intake
        self._told = ""
        self.had_trouble = False  # with the broker
        self.is_draining = False
        self.is_crowded = False

    def tell(self) -> None:
        """Tell the supervisor, if there is anything new."""
        words = self._words()
        if words and words != self._told:
            self._told = words
            self._reports.send("state", state=words)

    def _words(self) -> str:
        if not (self._publishing.is_up and self._consuming.is_up):
            return "waits for the broker" if self.had_trouble else ""  # the first connection is being made
        if self._publishing.is_blocked:
            return _ALARM
        if self.is_draining:
            return "takes nothing new"
        if not self._workers.ready:
            return "waits for a worker"
        if self._intake.takes_work or self.is_crowded:
            return "takes work"
        if self._consuming.is_short:
            number = len(self._intake)
            served = number - len(self._intake.unserved)
            return f"serves {served} of {number} worker types: channel_max of the broker is too low"
        return ""  # it is about to consume
