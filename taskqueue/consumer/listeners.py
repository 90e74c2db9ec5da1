"""The listeners of a consumer's parts: of its workers, and of its pipeline."""

from typing import TYPE_CHECKING, Protocol

from taskqueue.consumer.in_flight import Assignment
from taskqueue.worker.frames import Outcome, ProgressFrame, Service

if TYPE_CHECKING:
    from taskqueue.consumer.link import WorkerLink


class WorkerListener(Protocol):
    """Receives the events of workers."""

    def worker_ready(self, services: tuple[Service, ...]) -> None:
        """A worker is ready for workitems of the worker types that it names."""

    def worker_began(self, link: "WorkerLink", assignment: Assignment) -> None:
        """A worker begins a workitem."""

    def worker_progressed(self, assignment: Assignment, progress: ProgressFrame) -> None:
        """A worker reports its progress on a workitem."""

    def worker_printed(self, link: "WorkerLink", assignment: Assignment, level: str, line: str) -> None:
        """A handler has printed or logged a line."""

    def worker_performed(self, link: "WorkerLink", assignment: Assignment, outcome: Outcome) -> None:
        """A worker reports the outcome of a workitem."""


class PipelineListener(Protocol):
    """Receives the events of a pipeline."""

    def pipeline_changed(self) -> None:
        """The conditions for receiving workitems may have changed."""

    def pipeline_settled(self) -> None:
        """The end of a workitem, or of a lease, is confirmed."""

    def pipeline_serves(self, services: tuple[Service, ...]) -> None:
        """The worker types of the group are known."""
