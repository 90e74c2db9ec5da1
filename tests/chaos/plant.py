"""The plant: a broker, two dispatchers, two worker pools, a monitor, each behind a line of its own."""

import shutil
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from support.foreign import Foreign
from support.hosts import on_host
from support.node import Node
from support.processes import Daemon
from support.proxy import Proxy
from support.site import AS_ROOT, install_zoo
from support.slots import SlotFiles
from support.waiting import wait_until

from chaos import flows, ticks
from chaos.orders import Order, Step
from chaos.schedule import DISPATCHERS, LINES, MONITOR, POOLS, SERVICES
from chaos.tap import Tap
from chaos.workload import GROUPS, RESULTS, SECTIONS, TICK, TICKS, TYPES
from taskqueue.broker.topology import (
    CLAIMS,
    CONTROL_REGISTER,
    DELAYS,
    EVENTS,
    GATE,
    GATE_REPORTS,
    SCHEDULES,
    Queue,
    declared_arguments,
    delay_queue,
)
from taskqueue.config import AmqpSettings
from taskqueue.control import key
from taskqueue.keeper.client import ask
from taskqueue.messages.results import HOST
from taskqueue.monitor.store.reading import Record
from taskqueue.scheduler import client as schedules

_COMMANDER = "commander"  # whose configuration commands to pools have

KEEP_DELAY = 0.02  # seconds between two looks at what runs
INSTANCES = 2  # processes of a dispatcher
PAUSE_TIMEOUT = 60.0  # seconds until a scheduler that leads has taken a command
STOP_TIMEOUT = 40.0  # seconds; the daemons give themselves 20

DELAY_QUEUES = ("taskqueue_delay_0.25", "taskqueue_delay_1")  # those that the workload needs
#: Queues that keep what is over, or have no workitems.
LOGS = (
    EVENTS,
    CLAIMS.name,
    SCHEDULES.name,
    GATE.name,
    GATE_REPORTS,
    CONTROL_REGISTER.name,
    *flows.QUEUES,
)
WORK_QUEUES = ("taskqueue", *(f"worker_{name}" for name in GROUPS))
END_QUEUES = (RESULTS, TICKS, "taskqueue_failed", "taskqueue_rejected")


def free_port() -> int:
    """Return a TCP port of this machine that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Service:
    """A daemon as an init system keeps it: whatever ends it, it is started again."""

    def __init__(self, name: str, start: Callable[[], Daemon]) -> None:
        """Start nothing yet."""
        self.name = name
        self.daemon: Daemon
        self.daemons: list[Daemon] = []
        self._begin = start
        self._expected: set[int] = set()  # exit statuses, one of which comes next

    def start(self) -> None:
        """Start the daemon."""
        self._expected = set()
        self.daemon = self._begin()
        self.daemons.append(self.daemon)

    def roll(self) -> None:
        """Ask the daemon to finish and leave; another follows it."""
        if not self._expected:
            self._expected = {0}
            self.daemon.signal(signal.SIGTERM)

    @property
    def is_ready(self) -> bool:
        """Whether the daemon works, and knows what signals mean."""
        return not self._expected and "ready:" in self.daemon.output()

    def kill(self) -> None:
        """Kill the daemon's first process; all others must go with it."""
        self._expected.add(-signal.SIGKILL)  # it may just be leaving
        self.daemon.kill()
        self.keep()

    def keep(self) -> None:
        """Start the daemon again if it has ended; fail if it should not have."""
        if self.daemon.status is not None:
            assert self.daemon.status in self._expected, (
                f"{self.name} ended with {self.daemon.status}:\n{self.daemon.output()[-4000:]}"
            )
            self.daemon.assert_nothing_left()
            self.start()


class Plant:
    """Everything that runs; a context manager that leaves nothing behind but what the daemons wrote."""

    def __init__(self, python: Path, directory: Path, broker: Node, url: str) -> None:
        """Prepare queues and lines; `start` starts the daemons.

        python: an interpreter that has taskqueue and that every user can run
        directory: an empty directory that every user can enter
        url: a virtual host of the broker without any queue
        """
        self.broker = broker
        self.url, self.foreign = url, Foreign(url)
        self.taps = {name: Tap() for name in SERVICES}
        taps = {name: tap.connection for name, tap in self.taps.items()}
        self.lines = {name: Proxy(url, taps.get(name)) for name in LINES}
        self._python = python
        self._directory = directory
        self._plugins = directory / "plugins"
        self._vhost = url.rpartition("/")[2].replace("%2F", "/")
        self._later: list[tuple[float, Callable[[], None]]] = []
        self._port = free_port()  # of the monitor's web process
        self._generations = dict.fromkeys(GROUPS, 0)
        names = (*SERVICES, MONITOR)
        self.services = {name: Service(name, lambda name=name: self._start(name)) for name in names}
        self.record = directory / "record"
        self._key = directory / "control.key"
        self.hosts = {name: name.replace(" ", "-") if AS_ROOT else HOST for name in POOLS}
        self._orders: list[Order] = []  # that are not done
        self._given: list[Daemon] = []  # the commands of these, and of those that are done

    def __enter__(self) -> Self:
        install_zoo(self._plugins)
        self.slots = SlotFiles(self._plugins / "slots")
        self.notes = self.slots.directory / flows.NOTES
        for queue in WORK_QUEUES:
            self.foreign.declare(queue)
        for delay in DELAYS[:2]:  # those that the workload needs
            self._make_delay_queue(delay_queue(delay))
        key.make(self._key, "taskqueue")
        for name in (*self.services, _COMMANDER):
            self.configure(name)
        return self

    def _make_delay_queue(self, queue: Queue) -> None:
        """Make a delay queue before it is needed: while a new one settles, dispatchers acknowledge late."""
        major = int(self.foreign.server_version().partition(".")[0])
        arguments = declared_arguments(queue, AmqpSettings(()), major)
        self.foreign.declare(queue.name, arguments=arguments)
        self.foreign.bind(queue.name)

    def __exit__(self, *_: object) -> None:
        for daemon in (
            *(each for service in self.services.values() for each in service.daemons),
            *self._given,
        ):
            daemon.clean_up()
        for line in self.lines.values():
            line.close()
        self.foreign.close()

    # --- daemons ---

    def start(self) -> None:
        """Start the daemons, and wait until they work and the monitor has heard of each process."""
        for service in self.services.values():
            service.start()
        for service in self.services.values():
            service.daemon.wait_for("ready:", 60)
        emitters = len(DISPATCHERS) * INSTANCES + len(POOLS) * len(GROUPS)
        with Record(self.record) as record:
            # RabbitMQ 3.10 routes nothing to a new stream for up to a second.
            wait_until(lambda: _that_route_and_run(record) == emitters, 60, record.emitters)
        wait_until(lambda: None not in map(self.foreign.depth, flows.QUEUES), 60, "the queues of workflows")

    def _start(self, name: str) -> Daemon:
        command = "workerpool" if name in POOLS else "monitor" if name == MONITOR else "dispatcher"
        words = self._command(command, "-f", "-c", str(self._config(name)))
        if AS_ROOT and name in POOLS:
            words = on_host(self.hosts[name], words)
        return Daemon(words, self._directory, env={"PYTHONPATH": str(self._plugins)})

    def _command(self, *words: str) -> list[str]:
        return [str(self._python), "-P", "-m", "taskqueue", *words]

    def _config(self, name: str) -> Path:
        return self._directory / f"{name.replace(' ', '-')}.ini"

    def configure(self, name: str) -> None:
        """Write the configuration of a service."""
        url = self.lines[name].url if name in self.lines else self.url
        lines = [f"[amqp]\nurl: {url}\nheartbeat: 20"]
        lines += [f"[monitor]\ndatabase: {self.record}\nlisten: 127.0.0.1:{self._port}"]
        lines += [f"[dispatcher]\ninstances: {INSTANCES}\nstop_timeout: 20"]
        lines += [f"[workerpool]\nstop_timeout: 20\ncontrol_key: {self._key}"]
        lines += ["[DEFAULT]\nworkers: 0"]
        suffix = name[-1]
        for group, options in GROUPS.items():
            lines += [f"[{group}]\nworkers: {suffix}", TYPES.get(group, ""), f"[{group}_{suffix}]"]
            lines += [f"{option}: {value}" for option, value in options.items()]
            lines += [f"generation: {self._generations[group]}"]
        lines += [SECTIONS, ticks.SECTIONS, flows.SECTION.format(self._directory / "flow" / "flow.db")]
        path = self._config(name)
        written = path.with_suffix(".new")  # a daemon may be reading the old one
        written.write_text("\n".join(lines) + "\n")
        written.chmod(0o640)
        if AS_ROOT:
            shutil.chown(written, group="taskqueue")
        written.rename(path)

    def reload(self, name: str, choice: float) -> None:
        """Send SIGHUP; a pool finds one of its groups changed, and replaces it."""
        self._generations[list(GROUPS)[int(choice * len(GROUPS))]] += 1
        self.configure(name)
        self.services[name].daemon.signal(signal.SIGHUP)

    # --- commands of administrators ---

    def order(self, steps: list[Step], done: Callable[[], None]) -> None:
        """Give pools some commands, one after the other, while everything else goes on."""
        self._orders.append(Order(steps, self._give, done))

    def _give(self, words: tuple[str, ...]) -> Daemon:
        command = self._command(*words, "-c", str(self._config(_COMMANDER)))
        self._given.append(Daemon(command, self._directory, env={"PYTHONPATH": str(self._plugins)}))
        return self._given[-1]

    @property
    def commands(self) -> dict[str, int]:
        """How many commands were given, and how many of them all hosts have obeyed at once."""
        statuses = [each.status for each in self._given]
        return {"given": len(statuses), "obeyed": statuses.count(0)}

    @property
    def is_ordered(self) -> bool:
        """Whether some commands are not obeyed yet."""
        return bool(self._orders)

    # --- time ---

    def later(self, seconds: float, action: Callable[[], None]) -> None:
        """Do something in so many seconds."""
        self._later.append((time.monotonic() + seconds, action))

    def keep(self) -> None:
        """Do what is due, and start again what has ended."""
        now = time.monotonic()
        due = [action for moment, action in self._later if moment <= now]
        self._later = [each for each in self._later if each[0] > now]
        for action in due:
            action()
        for service in self.services.values():
            service.keep()
        self._orders = [order for order in self._orders if not order.keep()]

    def pass_time(self, seconds: float) -> None:
        """Keep everything running for so many seconds: the pause that the schedule asks for."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self.keep()
            time.sleep(min(left, KEEP_DELAY))

    # --- what there is to do ---

    def ended(self) -> int:
        """Return how many workitems have come to an end, each as often as it did."""
        return sum(self.foreign.depth(queue) or 0 for queue in (RESULTS, "taskqueue_rejected"))

    def left(self) -> int:
        """Return how many workitems are on their way, delivered ones included."""
        # What an Erlang node says of the delay queues, which are quorum queues, may be 5 seconds old.
        others = ", ".join(f'<<"{queue}">>' for queue in (*END_QUEUES, *DELAY_QUEUES, *LOGS))
        found = self.broker.evaluate(
            "lists:sum([M || [{name, {resource, _, queue, N}}, {messages, M}] <- "
            f'rabbit_amqqueue:info_all(<<"{self._vhost}">>, [name, messages]), '
            f"not lists:member(N, [{others}])])"
        )
        return int(found) + sum(self.foreign.depth(queue) or 0 for queue in DELAY_QUEUES)

    def keys(self) -> list[dict[str, Any]]:
        """Return the keys of unique work that are not free, without those of ticks that are over.

        The keeper lists some whose time is over, too: it forgets them when it needs the room.
        """
        keys = ask(AmqpSettings.from_url(self.url), "list", {})["keys"]
        kept = [key for key in keys if key["until"] > time.time()]
        return [key for key in kept if key["state"] != "over" or key["worker_type"] != TICK.worker_type]

    def pause_schedules(self) -> list[dict[str, Any]]:
        """Let no more ticks be fired; return what the register says of each schedule."""
        settings = AmqpSettings.from_url(self.url)
        for name in ticks.SCHEDULES:
            schedules.ask(settings, "pause", name=name, timeout=PAUSE_TIMEOUT)
        return [schedules.ask(settings, "show", name=name)["schedule"] for name in ticks.SCHEDULES]

    def stop(self) -> None:
        """Stop the daemons in order, without the monitor; nothing may be left undone."""
        for name in SERVICES:
            self._stop(name)
        wait_until(lambda: self.left() == 0, 5, lambda: f"{self.left()} workitems in no process's hands")

    def stop_monitor(self) -> None:
        """Stop the monitor."""
        self._stop(MONITOR)

    def _stop(self, name: str) -> None:
        daemon = self.services[name].daemon
        assert daemon.stop(STOP_TIMEOUT) == 0, daemon.output()[-4000:]
        daemon.assert_nothing_left()

    def outputs(self) -> str:
        """Return what all daemons have written."""
        return "\n".join(daemon.output() for service in self.services.values() for daemon in service.daemons)


def _that_route_and_run(record: Record) -> int:
    """Return how many dispatchers and consumers a record has heard of."""
    return sum(each.emitter.kind in ("dispatcher", "consumer") for each in record.emitters())
