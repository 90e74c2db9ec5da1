"""Schedulers in processes of their own on a real broker, and a client that sees what they fire."""

import json
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from support.foreign import Foreign
from support.forked import Forked
from support.waiting import wait_until

from taskqueue.broker.standby import SIGNALS
from taskqueue.config import AmqpSettings, LoggingSettings
from taskqueue.process import logs
from taskqueue.process.daemon import Signals
from taskqueue.scheduler.client import ask
from taskqueue.scheduler.scheduler import Scheduler
from taskqueue.scheduler.state import State
from taskqueue.schedules.definition import Definition

SECOND = Definition("second", "good", every=1.0)


class Team:
    """Schedulers in processes of their own, and a client that sees what they fire."""

    def __init__(self, url: str, forked: Callable[..., Forked], foreign: Foreign) -> None:
        self.url, self._forked, self._foreign = url, forked, foreign
        foreign.declare("taskqueue")
        self.fired: list[Any] = []

    def start(
        self,
        *definitions: Definition,
        host: str = "one",
        ahead: float = 0.0,
        heartbeat: int = 20,
        **options: Any,
    ) -> Forked:
        """Start a scheduler; wait until it stands by or leads."""

        def run() -> int:
            logs.set_up(LoggingSettings(), "scheduler")
            with Signals(SIGNALS) as signals:
                return Scheduler(
                    replace(AmqpSettings.from_url(self.url), heartbeat=heartbeat),
                    definitions,
                    signals,
                    lambda state: print(state, flush=True),
                    clock=lambda: time.time() + ahead,
                    host=host,
                    **options,
                ).run()

        started = self._forked(run)
        started.wait_for("stands by", timeout=30)
        return started

    def take(self) -> list[Any]:
        """Add what was fired to `fired`; return all."""
        while (message := self._foreign.poll("taskqueue")) is not None:
            self.fired.append(message)
        return self.fired

    def wait_for(self, number: int, timeout: float = 20) -> list[Any]:
        return wait_until(lambda: len(self.take()) >= number and self.fired, timeout, self.names)

    def ask(self, action: str, **arguments: Any) -> Any:
        """Send a command to the leader; return its answer."""
        return ask(AmqpSettings.from_url(self.url), action, **arguments)

    def state(self, name: str) -> Any:
        return self.ask("show", name=name)["schedule"]

    def names(self) -> list[str]:
        return [message.headers["x-taskqueue-schedule"] for message in self.fired]


def ticks_of(messages: list[Any], name: str) -> list[float]:
    return [m.headers["x-taskqueue-tick"] for m in messages if m.headers["x-taskqueue-schedule"] == name]


def store(foreign: Foreign, definition: Definition, last: float, **state: Any) -> State:
    """Put a schedule into the register as a leader leaves it."""
    stored = State(definition, version=7, last=last, writer="somebody", **state)
    foreign.publish(json.dumps(stored.as_json()), "taskqueue_schedules")
    return stored
