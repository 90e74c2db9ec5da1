"""Inflicting faults, and remembering who was hit when."""

import math
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from support.processes import children, kill, tree
from support.waiting import wait_until

from chaos.orders import KEPT, OBEYED, WHILE_FAULTS, Step
from chaos.plant import Plant
from chaos.schedule import Fault
from chaos.workload import GROUPS

PRESENT_TIMEOUT = 90.0  # seconds; a process that died young again and again is started after up to 60


@dataclass(slots=True)
class Hit:
    """The target of a fault that was inflicted."""

    kind: str
    target: str  # a service, or the broker
    group: str  # the worker type whose consumer or worker it was, "" for everything of the target
    began: float  # seconds since 1970
    over: float  # infinite as long as it lasts

    def overlaps(self, since: float, until: float) -> bool:
        """Tell whether it was under way in a span of time."""
        return self.began <= until and self.over >= since


def inflict(plant: Plant, fault: Fault) -> Hit:
    """Do what a fault stands for; return once it is done, or has begun if it lasts. The broker is up then."""
    hit = Hit(fault.kind, fault.target, "", time.time(), math.inf)
    if fault.kind in COMMANDS:
        plant.order(COMMANDS[fault.kind](plant, fault), partial(_end, hit, lambda: None))
        return hit
    if fault.kind in _LASTING:
        plant.later(fault.seconds, partial(_end, hit, _LASTING[fault.kind](plant, fault)))
        return hit
    hit.group = _ACTIONS[fault.kind](plant, fault) or ""
    hit.over = time.time()
    plant.broker.start()  # which has lost everything that it will lose
    return hit


def _end(hit: Hit, end: Callable[[], None]) -> None:
    end()
    hit.over = time.time()


def _kill_worker(plant: Plant, fault: Fault) -> str:
    return _kill_one(plant, fault, lambda name: name.startswith("tq:") and "/" in name)


def _kill_consumer(plant: Plant, fault: Fault) -> str:
    return _kill_one(plant, fault, lambda name: name.startswith("tq:") and "/" not in name)


def _kill_by_name(plant: Plant, fault: Fault) -> None:
    """Kill a child of a dispatcher daemon: "kill a gate" names it."""
    _kill_one(plant, fault, lambda name: name == f"tq:{fault.kind.removeprefix('kill a ')}")


def _kill_one(plant, fault, is_meant) -> str:
    """Kill one of a daemon's children, whom `is_meant` knows by name; return its worker type."""

    def present() -> list[tuple[int, str]]:
        plant.keep()
        found = [(pid, _name(pid)) for pid in sorted(children(plant.services[fault.target].daemon.pid))]
        return [(pid, name) for pid, name in found if is_meant(name)]

    those = wait_until(present, PRESENT_TIMEOUT, f"somebody for {fault}")
    pid, name = those[int(fault.choice * len(those))]
    kill(pid)
    return name.removeprefix("tq:").partition("/")[0].partition("_")[0]


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:  # gone meanwhile
        return ""


def _kill_service(plant: Plant, fault: Fault) -> None:
    plant.services[fault.target].kill()


def _stop_broker(plant: Plant, _fault: Fault) -> None:
    os.kill(plant.broker.pid, signal.SIGTERM)
    wait_until(lambda: not plant.broker.alive, 60, "the broker's end")


def _kill_broker(plant: Plant, _fault: Fault) -> None:
    plant.broker.kill_settled()


def _cut(plant: Plant, fault: Fault) -> None:
    plant.lines[fault.target].cut()


def _break(plant: Plant, fault: Fault) -> Callable[[], None]:
    line = plant.lines[fault.target]
    line.refuse()
    line.cut()
    return line.accept


def _delay(plant: Plant, fault: Fault) -> Callable[[], None]:
    line = plant.lines[fault.target]
    line.stall()
    return line.resume


def _raise_alarm(plant: Plant, _fault: Fault) -> Callable[[], None]:
    plant.broker.set_alarm(on=True)
    return lambda: plant.broker.set_alarm(on=False)


def _freeze(plant: Plant, fault: Fault) -> Callable[[], None]:
    """Stop every process of a service; its connections stay, as those of a host that hangs do for a while."""
    frozen = tree(plant.services[fault.target].daemon.pid)
    _signal(frozen, signal.SIGSTOP)
    return lambda: _signal(frozen, signal.SIGCONT)


def _signal(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def _reload(plant: Plant, fault: Fault) -> None:
    _await_ready(plant, fault)
    plant.reload(fault.target, fault.choice)


def _roll(plant: Plant, fault: Fault) -> None:
    _await_ready(plant, fault)
    plant.services[fault.target].roll()


def _await_ready(plant: Plant, fault: Fault) -> None:
    """Wait until the service knows what signals mean: before that, the kernel ends it."""

    def is_ready() -> bool:
        plant.keep()
        return plant.services[fault.target].is_ready

    wait_until(is_ready, PRESENT_TIMEOUT, lambda: f"{fault}: {plant.services[fault.target].daemon.output()}")


# --- commands of administrators ---


def _pause_type(_plant: Plant, fault: Fault) -> list[Step]:
    name = _type_of(fault)
    # Of two pauses at once, the first one that ends ends both: then the type is not paused any more.
    return [Step(("pause", name), KEPT), Step(("resume", name), (*OBEYED, 1), fault.seconds)]


def _scale(plant: Plant, fault: Fault) -> list[Step]:
    """Give a group another number of workers, and then that of its configuration again."""
    keep = ("--keep",) if int(fault.choice * 10_000) % 2 else ()
    words = "scale", f"{_type_of(fault)}_{fault.target[-1]}"
    where = "--host", plant.hosts[fault.target], *keep
    number = str(int(fault.choice * 1000) % 5)
    begun = KEPT if keep else WHILE_FAULTS  # what is not kept is not for a pool that is down
    return [Step((*words, number, *where), begun), Step((*words, "config", *where), OBEYED, fault.seconds)]


def _replace(plant: Plant, fault: Fault) -> list[Step]:
    return [Step(("roll", _type_of(fault), "--host", plant.hosts[fault.target]), WHILE_FAULTS)]


def _drain(plant: Plant, fault: Fault) -> list[Step]:
    host = plant.hosts[fault.target]
    return [Step(("drain", host), KEPT), Step(("undrain", host), OBEYED, fault.seconds)]


def _type_of(fault: Fault) -> str:
    return list(GROUPS)[int(fault.choice * len(GROUPS))]


#: The commands of each fault that is one of an administrator.
COMMANDS = {
    "pause a type": _pause_type,
    "scale a group": _scale,
    "replace workers": _replace,
    "drain a host": _drain,
}

_ACTIONS = {
    "kill a worker": _kill_worker,
    "kill a consumer": _kill_consumer,
    "kill a dispatcher": _kill_by_name,
    "kill a flow": _kill_by_name,
    "kill a gate": _kill_by_name,
    "kill a keeper": _kill_by_name,
    "kill a scheduler": _kill_by_name,
    "kill a supervisor": _kill_service,
    "kill a dispatcher's supervisor": _kill_service,
    "kill the monitor": _kill_service,
    "restart the broker": _stop_broker,
    "kill the broker": _kill_broker,
    "cut a line": _cut,
    "reload": _reload,
    "roll": _roll,
}

#: Each returns a function that ends the fault.
_LASTING = {
    "break a line": _break,
    "delay a line": _delay,
    "raise an alarm": _raise_alarm,
    "freeze a host": _freeze,
}
