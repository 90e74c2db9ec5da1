"""Examines this host and its broker. Nothing is changed."""

import os
import time
from collections.abc import Collection, Iterable
from dataclasses import replace
from typing import Final

from taskqueue import address, config
from taskqueue.address import Source
from taskqueue.broker.errands import QueueSize
from taskqueue.broker.events import own_version
from taskqueue.broker.probe import CONFIGURE, Probe, Right
from taskqueue.broker.topology import EVENTS, lane_queue, worker_queue
from taskqueue.config import AmqpSettings, Settings
from taskqueue.doctor import (
    api,
    broker,
    files,
    host,
    plugins,
    queues,
    rabbitmqctl,
    record,
    rights,
    services,
    times,
    trust,
)
from taskqueue.doctor.broker import BrokerFacts
from taskqueue.doctor.finding import Finding, Level, Report, Unseen
from taskqueue.doctor.hosts import LISTENS, Listener
from taskqueue.doctor.inside import Inside, NotTold, QueueSettings
from taskqueue.doctor.queues import QueueFacts, QueuesFacts
from taskqueue.doctor.record import RecordFacts
from taskqueue.errors import BrokerRefused, BrokerUnavailable, ConfigError, TaskqueueError
from taskqueue.messages.results import HOST
from taskqueue.monitor.client import Access
from taskqueue.plugins import FORMATS
from taskqueue.process.imports import try_import
from taskqueue.process.relatives import user_name

_NAME: Final = "taskqueue doctor"
_INSIDE: Final = "types and policies of queues, nodes and partitions of the broker, consumer_timeout"
_OTHERS: Final = "clocks, versions and broker users of other hosts"


def examine(source: Source, access: Access) -> Report:
    """Examine this host, and the broker of its configuration.

    Args:
        source: where the configuration and the broker's address come from.
        access: how the monitor's record is reached.
    """
    examination = Examination(source, access)
    examination.run()
    return Report.of(examination.findings, examination.unseen)


class Examination:
    """One examination; it collects findings, and what it could not look at."""

    def __init__(self, source: Source, access: Access) -> None:
        self.findings: list[Finding] = []
        self.unseen: list[Unseen] = []
        self._source, self._access = source, access
        self._settings = Settings(path=source.path)
        self._entry_points = list(plugins.entry_points())
        self._listener: Listener | None = None

    def run(self) -> None:
        """Look at everything."""
        is_configured = self._read_configuration()
        daemons = self._look_at_host()
        if (amqp := self._address(is_configured=is_configured)) is not None:
            self._look_at_broker(amqp, daemons)
        self._look_at_plugins()
        if amqp is not None and self._listener is not None:
            self._look_at_others(self._listener, amqp, daemons)

    # --- this host ---

    def _read_configuration(self) -> bool:
        """Read the configuration; return whether that has succeeded."""
        names = {each.plugin.name for each in self._entry_points if each.group != FORMATS}
        try:
            self._settings = config.load(self._source.path, names, as_root=os.geteuid() == 0)
        except ConfigError as error:
            self.findings += [_of_config(Level.ERROR, "config-fault", str(fault)) for fault in error.faults]
            self.findings += [_of_config(Level.WARNING, "config-warning", each) for each in error.warnings]
            return False
        warnings = [each for each in self._settings.warnings if not files.is_about_secret(each)]
        self.findings += [_of_config(Level.WARNING, "config-warning", each) for each in warnings]
        return True

    def _look_at_host(self) -> frozenset[str]:
        """Look at files, services and room; return the daemons of this host."""
        installed, settings = services.collect(), files.with_control_key(self._settings)
        self.findings += files.judge(files.collect(settings), user_name(os.geteuid()))
        self.findings += files.judge_exposure(self._settings)
        self.findings += files.judge_key(settings)
        self.findings += host.judge(host.collect(self._settings))
        self.findings += services.judge(installed)
        if os.geteuid() != 0:
            self._cannot_see("secrets that workers can read, and open files of the daemons", "run as root")
        return services.daemons_here(installed)

    def _look_at_plugins(self) -> None:
        default = self._settings.workerpool.worker_user
        users = {group.worker_type: group.user for group in self._settings.groups if group.workers}
        tried = plugins.importable(self._entry_points)
        for number, each in enumerate(self._entry_points):
            if each in tried:
                user = (users.get(each.plugin.name) or default) if os.geteuid() == 0 else None
                error = try_import(each.plugin.name, each.group, user)
                self._entry_points[number] = replace(each, error=error)
        self.findings += plugins.judge(self._entry_points)
        self.findings += plugins.judge_commands(self._settings.groups)

    # --- the broker ---

    def _address(self, *, is_configured: bool) -> AmqpSettings | None:
        try:
            found = self._source.given() or self._settings.amqp
            if found is None and not is_configured:
                self._cannot_see("the broker", "the configuration, which names it, has faults")
                return None
            return found or address.private_address()
        except ConfigError as error:
            for fault in error.faults:
                advice = "name the broker in section [amqp] of the configuration"
                self.findings.append(Finding(Level.ERROR, "broker", "no-address", str(fault), advice))
            return None

    def _look_at_broker(self, amqp: AmqpSettings, daemons: Collection[str]) -> None:
        try:
            with Probe(amqp, _NAME) as probe:
                self._ask(probe, amqp, daemons)
        except (BrokerUnavailable, BrokerRefused) as error:
            self.findings += broker.judge(BrokerFacts(amqp.url(), error))

    def _ask(self, probe: Probe, amqp: AmqpSettings, daemons: Collection[str]) -> None:
        told = probe.properties
        version = str(told.get("version", ""))
        inside = self._look_inside(amqp, str(told.get("cluster_name", "")))
        sizes = probe.sizes(self._queue_names(inside, daemons))
        self._listen(amqp, sizes)
        settings = inside.queues if inside is not None else _settings_of(probe, sizes)
        self._look_at_rights(probe, amqp, daemons, sizes)
        is_alarmed = probe.has_alarm()
        product = str(told.get("product", ""))
        self.findings += broker.judge(BrokerFacts(amqp.url(), None, product, version, is_alarmed, inside))
        found = self._record()
        results = frozenset(group.results_routing_key for group in self._settings.groups)
        facts = QueuesFacts(
            {name: QueueFacts(size, settings.get(name)) for name, size in sizes.items()},
            results,
            next(iter(broker.numbers(version)), 0),
            is_cluster=inside.is_cluster if inside is not None else amqp.is_cluster,
            is_private=amqp.owner is not None,
            new_letters=found.new_letters,
            idle_since=found.idle_since,
        )
        self.findings += queues.judge(facts, time.time())
        if inside is not None:
            self.findings += times.judge_deliveries(self._settings.groups, inside)
            self.findings += trust.judge_entries(amqp, inside)

    def _look_inside(self, amqp: AmqpSettings, cluster: str) -> Inside | None:
        if amqp.owner is not None:  # a private broker has no policies, and settings that fit
            return None
        try:
            return rabbitmqctl.look(amqp, cluster)
        except NotTold as error:
            why = str(error)
        url = self._settings.monitor.management
        if url is None:
            self._cannot_see(_INSIDE, f"{why}, and section [monitor] has no management")
            return None
        try:
            found = api.look(url, amqp, cluster)
        except NotTold as error:
            self._cannot_see(_INSIDE, f"{why}; {error}")
            return None
        self.unseen += api.unseen()
        return found

    def _queue_names(self, inside: Inside | None, daemons: Collection[str]) -> list[str]:
        """Return the queues to look at: those of the configuration, and those that the broker has told."""
        names = [*rights.queues_needed(self._settings, daemons), EVENTS]
        for group in self._settings.groups:
            names.append(worker_queue(group.worker_type))
            names += [lane_queue(group.worker_type, number) for number in range(group.lanes)]
            names.append(group.results_routing_key)
        return list(dict.fromkeys([*names, *(inside.queues if inside is not None else ())]))

    def _look_at_rights(
        self, probe: Probe, amqp: AmqpSettings, daemons: Collection[str], sizes: dict[str, QueueSize | None]
    ) -> None:
        needed = rights.needs(self._settings, daemons)
        missing = [
            name for name in rights.queues_needed(self._settings, daemons) if sizes.get(name, 0) is None
        ]
        lacking = probe.lacking(
            [*(need.right for need in needed), *(Right(CONFIGURE, name) for name in missing)]
        )
        if probe.is_blocked:
            self._cannot_see("rights to write", "the broker has an alarm")
        self.findings += rights.judge(amqp.user, needed, lacking, missing)

    def _record(self) -> RecordFacts:
        served = {group.worker_type for group in self._settings.groups if group.workers}
        try:
            return record.collect(self._access.reader(self._settings.monitor), sorted(served))
        except TaskqueueError as error:
            self._cannot_see("new dead letters, and worker types that have had no work for weeks", str(error))
            return RecordFacts()

    # --- other hosts ---

    def _listen(self, amqp: AmqpSettings, sizes: dict[str, QueueSize | None]) -> None:
        """Begin to listen to events, if a monitor records them: otherwise none may come for half a minute."""
        if sizes.get(EVENTS) is None:
            self._cannot_see(_OTHERS, "events come only if a monitor records them")
        else:
            self._listener = Listener(amqp).start()

    def _look_at_others(self, listener: Listener, amqp: AmqpSettings, daemons: Collection[str]) -> None:
        heard = listener.heard()
        if not heard:
            why = f"no event came within {LISTENS:g} s"
            self._cannot_see(_OTHERS, why)
        self.findings += times.judge_hosts(heard, HOST, own_version())
        if rights.DISPATCHER in daemons:
            self.findings += trust.judge_daemons(amqp, heard)

    def _cannot_see(self, what: str, why: str) -> None:
        self.unseen.append(Unseen(what, why))


def _of_config(level: Level, name: str, text: str) -> Finding:
    return Finding(level, "host", name, text, "correct it; `taskqueue config` checks the configuration")


def _settings_of(probe: Probe, sizes: dict[str, QueueSize | None]) -> dict[str, QueueSettings]:
    """Return what AMQP tells of the arguments of queues: the first one of each that is not the default."""
    there: Iterable[str] = [name for name, size in sizes.items() if size is not None and name != EVENTS]
    return {name: queues.settings_of(*found) for name, found in probe.differences(there).items()}
