"""The file in which workers of the plugin `note` say that they are ready, and that they begin a workitem."""

from typing import Final

from benchmarks.ground import Ground

_READY: Final = b"ready"
_WORK: Final = b"work"


class Notes:
    """An empty file for notes; the option `notes` of a group names it."""

    def __init__(self, ground: Ground) -> None:
        """Make the file anew."""
        self.path = ground.directory / "notes"
        self.path.write_bytes(b"")
        self.path.chmod(0o666)  # workers that root starts have a user of their own

    @property
    def ready(self) -> int:
        """The number of workers that have been ready."""
        return self.path.read_bytes().count(_READY)

    @property
    def begun(self) -> int:
        """The number of workitems that have begun."""
        return self.path.read_bytes().count(_WORK)

    @property
    def workers(self) -> list[int]:
        """The process ids of who has worked, in order."""
        return [int(words[1]) for words in self._work()]

    @property
    def starts(self) -> list[float]:
        """The times at which workitems began, in seconds of the machine's monotonic clock, in order."""
        return sorted(int(words[2]) / 1e9 for words in self._work())

    def _work(self) -> list[list[bytes]]:
        lines = self.path.read_bytes().splitlines()
        return [line.split() for line in lines if line.startswith(_WORK)]
