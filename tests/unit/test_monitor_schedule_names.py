"""Questions for names of schedules to a recorder that does not answer, or is not there."""

import asyncio
import socket

import pytest

from taskqueue.monitor.web import schedule_names
from taskqueue.monitor.web.rights import VIEWER, Rights
from taskqueue.monitor.web.schedule_names import ScheduleNames

BOB = Rights("bob", VIEWER)


@pytest.mark.parametrize("is_there", [True, False])
def test_without_an_answer_no_schedule_is_known_and_nobody_asks_again_at_once(
    tmp_path, is_there, monkeypatch
):
    monkeypatch.setattr(schedule_names, "_PATIENCE", 0.1)
    path = tmp_path / "actions.socket"

    async def ask():
        names = ScheduleNames(path)
        found = await asyncio.gather(names.containing(BOB, "a", 6), names.containing(BOB, "ab", 6))
        return [*found, await names.containing(BOB, "abc", 6), await names.has(BOB, "abc")]

    with socket.socket(socket.AF_UNIX) as listening:
        if is_there:
            listening.bind(str(path))
            listening.listen()
        assert asyncio.run(ask()) == [[], [], [], False]
        if is_there:
            listening.setblocking(False)
            listening.accept()[0].close()
            with pytest.raises(BlockingIOError):
                listening.accept()
