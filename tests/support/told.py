"""The events that daemons tell, as a client receives them from the exchange."""

from typing import Any

from support.foreign import Foreign
from support.waiting import wait_until

from taskqueue.messages.events import Batch, Emitter, decode

EVENTS = "taskqueue_events"


class Record:
    """All events so far, in the order of their arrival."""

    def __init__(self, foreign: Foreign) -> None:
        self._foreign = foreign
        self.events: list[Any] = []
        self.batches: list[Batch] = []
        foreign.declare(EVENTS)
        foreign.bind(EVENTS)

    def update(self) -> None:
        while (message := self._foreign.poll(EVENTS)) is not None:
            batch = decode(message.body)
            assert not batch.damaged
            self.batches.append(batch)
            self.events += batch.events

    def wait_for(self, kind: type[Any], number: int = 1, **fields: object) -> list[Any]:
        """Return the first `number` events of a kind with some fields, once they are there."""

        def found() -> list[Any]:
            self.update()
            return [
                event
                for event in self.events
                if type(event) is kind and all(getattr(event, name) == fields[name] for name in fields)
            ]

        wait_until(lambda: len(found()) >= number, 20, f"{number} {kind.__name__} with {fields}")
        return found()

    def assert_numbered(self) -> None:
        """Fail unless the batches of each emitter are numbered without a gap."""
        expected: dict[Emitter, int] = {}
        for batch in self.batches:
            assert batch.number == expected.get(batch.emitter, batch.number), batch
            expected[batch.emitter] = batch.number + batch.size
