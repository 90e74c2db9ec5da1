"""Names of schedules for the field that jumps to them: only the scheduler knows them, and it may be away."""

import asyncio
import time
from pathlib import Path
from typing import Any, Final

from taskqueue.errors import TaskqueueError
from taskqueue.monitor import asking
from taskqueue.monitor.web.api import NeverSeen
from taskqueue.monitor.web.rights import Rights
from taskqueue.monitor.web.schedules import LIST, SHOW, ScheduleRequest

_PATIENCE: Final = 1.0  # seconds; the user types meanwhile
_SILENCE: Final = 10.0  # seconds without a question after one without an answer; the recorder waits 5 for it


class ScheduleNames:
    """Asks for names of schedules, one question at a time; while nobody answers in time, it knows none."""

    def __init__(self, actions: Path) -> None:
        """Ask nothing yet; actions -- the recorder's socket."""
        self._actions = actions
        self._turn = asyncio.Lock()
        self._silent_until = 0.0

    async def containing(self, rights: Rights, text: str, limit: int) -> list[str]:
        """Return the first names that contain a text, in upper or lower case, of schedules that a user sees.

        limit -- the maximum number
        """
        answer = await self._ask(rights, ScheduleRequest(LIST, text=text, limit=limit, times=1))
        return [str(each["name"]) for each in answer.get("schedules", ())]

    async def has(self, rights: Rights, name: str) -> bool:
        """Return whether there is a schedule of this name that a user sees."""
        try:
            return bool(await self._ask(rights, ScheduleRequest(SHOW, name)))
        except NeverSeen:
            return False

    async def _ask(self, rights: Rights, request: ScheduleRequest) -> dict[str, Any]:
        """Return the answer; {} if there is none in time. Raises NeverSeen."""
        if time.monotonic() < self._silent_until:
            return {}
        try:
            async with asyncio.timeout(_PATIENCE), self._turn:
                if time.monotonic() < self._silent_until:
                    return {}  # the question before had no answer
                return await asking.ask_daemons(self._actions, rights, request)
        except NeverSeen:
            raise
        except (TaskqueueError, TimeoutError):
            self._silent_until = time.monotonic() + _SILENCE
            return {}
