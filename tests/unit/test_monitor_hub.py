"""Streams of live parts: one look for all of them, only what has changed, and no more than a number."""

import asyncio
import json

import pytest
from support.recorded import write_record

from taskqueue.monitor.web import hub as hubs
from taskqueue.monitor.web.hub import Hub, Part
from taskqueue.monitor.web.readers import Readers, TooSlow
from taskqueue.monitor.web.rights import OWN_RIGHTS, VIEWER, Rights


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run a coroutine that is given a hub."""
    monkeypatch.setattr(hubs, "_DELAY", 0.01)
    write_record(tmp_path / "record")
    readers = Readers(tmp_path / "record")

    def run(use):
        async def main():
            async with asyncio.timeout(20):
                await use(Hub(readers))

        asyncio.run(main())

    yield run
    readers.close()


def content(message):
    assert message.startswith("data: ")
    assert message.endswith("\n\n")
    return json.loads(message[6:])


def test_streams_of_a_part_share_its_looks(run):
    looks = []

    def make(view):
        looks.append(view.rights)
        return f"look\r\n{len(looks)}"

    async def use(hub):
        part = Part("/", OWN_RIGHTS)
        with hub.stream({part: make}) as one, hub.stream({part: make}) as other:
            assert content(await one.take(20)) == content(await other.take(20)) == "look\r\n1"
            assert content(await one.take(20)) == "look\r\n2"
            assert looks == [OWN_RIGHTS] * 2
            with hub.stream({part: make}) as late:
                assert content(await late.take(20)) == "look\r\n2", "a late one need not wait for a change"

    run(use)


def test_a_part_is_made_with_the_rights_of_those_who_see_it(run):
    async def use(hub):
        limited = Rights("", VIEWER, frozenset(("north",)))
        with (
            hub.stream({Part("/", OWN_RIGHTS): count}) as all_of_it,
            hub.stream({Part("/", limited): count}) as part,
        ):
            assert content(await all_of_it.take(20)) == "7"
            assert content(await part.take(20)) == "2"

    def count(view):
        return str(sum(row.waiting + row.running + sum(row.ends.values()) for row in view.types()))

    run(use)


def test_only_what_has_changed_is_sent_and_nothing_is_read_for_nobody(run):
    looks = []

    def make(_view):
        looks.append(1)
        return "same" if len(looks) < 5 else "other"

    async def use(hub):
        with hub.stream({Part("/", OWN_RIGHTS): make}) as stream:
            assert [content(await stream.take(20)), content(await stream.take(20))] == ["same", "other"]
        await asyncio.wait_for(hub._task, 10)
        assert len(looks) in (5, 6)

    run(use)


def test_more_streams_than_the_number_are_refused(run, monkeypatch):
    monkeypatch.setattr(hubs, "MOST_STREAMS", 1)

    async def use(hub):
        with (
            hub.stream({Part("/", OWN_RIGHTS): lambda _view: ""}),
            pytest.raises(TooSlow, match="too many live pages"),
            hub.stream({Part("/x", OWN_RIGHTS): repr}),
        ):
            pass
        with hub.stream({Part("/x", OWN_RIGHTS): lambda _view: ""}):
            pass

    run(use)


def test_a_part_that_cannot_be_made_does_not_end_the_others(run):
    def fail(_view):
        raise TooSlow("no")

    async def use(hub):
        with (
            hub.stream({Part("/a", OWN_RIGHTS): fail}),
            hub.stream({Part("/b", OWN_RIGHTS): lambda _v: "b"}) as stream,
        ):
            assert content(await stream.take(20)) == "b"

    run(use)


def test_one_stream_has_several_parts_and_of_each_the_newest_message(run):
    looks, looked_thrice = [], asyncio.Event()

    async def use(hub):
        loop = asyncio.get_running_loop()

        def make(_view):
            looks.append(1)
            if len(looks) == 3:
                loop.call_soon_threadsafe(looked_thrice.set)
            return str(len(looks))

        parts = {Part("/notices", OWN_RIGHTS, "notices"): lambda _view: "behind", Part("/", OWN_RIGHTS): make}
        with hub.stream(parts) as stream:
            await looked_thrice.wait()
            first, second = (await stream.take(20)).removesuffix("\n\n").split("\n\n")
            assert first == 'event: notices\ndata: "behind"'
            assert int(json.loads(second.removeprefix("data: "))) >= 2, "not each of them"

    run(use)


def test_a_quiet_stream_tells_nothing_and_one_that_is_closed_its_end(run):
    async def use(hub):
        with hub.stream({Part("/", OWN_RIGHTS): lambda _view: "same"}) as stream:
            assert content(await stream.take(20)) == "same"
            assert await stream.take(0.05) == ""
            hub.close()
            assert await stream.take(20) is None

    run(use)
