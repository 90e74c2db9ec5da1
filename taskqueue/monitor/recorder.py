"""The recorder: reads the stream of events and writes the record.

A batch is recorded together with its position in the stream, and acknowledged afterwards. Reading resumes
after the recorded position, so a crash neither misses nor doubles anything.
"""

import contextlib
import signal
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Final

from taskqueue.broker.loop import EventLoop
from taskqueue.broker.session import Session, SessionListener
from taskqueue.config import AmqpSettings, MonitorSettings
from taskqueue.errors import (
    BrokerRefused,
    BrokerUnavailable,
    ExitStatus,
    RecordDamaged,
    RecordRefused,
    RecordUnavailable,
)
from taskqueue.messages.events import Batch
from taskqueue.messages.relatives import Other
from taskqueue.messages.results import HOST
from taskqueue.monitor.action_server import ActionServer
from taskqueue.monitor.actions import Actor
from taskqueue.monitor.asking import ActionFailed
from taskqueue.monitor.depths import Depths
from taskqueue.monitor.management import Management
from taskqueue.monitor.own_processes import OwnProcesses
from taskqueue.monitor.place import actions_socket, users_file
from taskqueue.monitor.repeating import Repeater
from taskqueue.monitor.report import REPORT_DELAY, STANDS_BY, Report, remove_report, write_report
from taskqueue.monitor.retention import Retention, keep_of
from taskqueue.monitor.store.reading import Record
from taskqueue.monitor.store.store import Store
from taskqueue.monitor.stream import EventStream
from taskqueue.monitor.times import Times
from taskqueue.monitor.web.rights import OWN_RIGHTS
from taskqueue.monitor.web.users import UserFile
from taskqueue.process.daemon import Signals
from taskqueue.process.logs import Log
from taskqueue.process.usage import collect_rarely

if TYPE_CHECKING:
    from taskqueue.monitor.store.postgresql.store import PostgresqlStore  # not everybody has psycopg

SIGNALS: Final = (signal.SIGTERM, signal.SIGHUP)  # both record what has come, then end the process

_WRITE_DELAY: Final = 0.2  # seconds that a batch waits for others
_MOST_EVENTS: Final = 10_000  # that are written together: each write changes pages all over the index of ids
_MOST_MESSAGES: Final = 500
_MOST_BYTES: Final = 8 * 1024 * 1024
_FIRST_RETRY, _LONGEST_RETRY = 1.0, 30.0  # seconds until a failed write is tried again
_TAKE_OVER_DELAY: Final = 2.0


class Recorder(SessionListener):
    """One recorder process."""

    def __init__(
        self,
        settings: MonitorSettings,
        amqp: AmqpSettings,
        store: "Store | PostgresqlStore",
        signals: Signals,
        on_state: Callable[[str], None],
        *,
        lanes: Mapping[str, int],
        has_token: bool = False,
    ) -> None:
        """Prepare to `run`.

        Args:
            settings: the section [monitor].
            amqp: the broker's address.
            store: the record.
            signals: the source of SIGTERM and SIGHUP.
            on_state: takes the state in words, from the first attempt to connect on.
            lanes: the number of lanes, by worker type.
            has_token: whether the holder of the web process's own token may act.
        """
        self._settings, self._store = settings, store
        self._signals, self._on_state = signals, on_state
        self._log = Log("recorder")
        self._loop = EventLoop()
        self._session = Session(self._loop, amqp, "taskqueue monitor", on_error=self._on_error)
        self._stream = EventStream(self._loop, self._session, settings, self)
        self._depths = Depths(self._loop, self._session, lanes, self._report)
        self._times = Times(max(keep_of(settings).values()))
        self._batches: list[tuple[int, Batch]] = []  # not yet written, with their positions
        self._events = self._bytes = 0  # of these
        self._timer: object | None = None  # of the next write
        self._state = self._trouble = ""  # the second one: why nothing can be recorded now
        self._is_pausing = False  # after a failed write
        self._retry_delay = _FIRST_RETRY
        self._recorded = 0  # events
        self._recorded_at: float | None = None
        self._is_reading = False
        self._is_writer = self._has_connected = False  # of the record's database, or to it
        self._take_over: object | None = None  # the timer of the next attempt to write
        # Whether the broker has answered, or could not be reached; and whether this process ends.
        self._was_tried = self._draining = False
        self.failure = ""  # why it cannot work, in words
        self._status = ExitStatus.OK
        self._session.attach(self)
        self._processes = OwnProcesses()
        self._repeater = Repeater(self._loop, store.cancels, amqp)
        users, own = UserFile(users_file(store.directory)), OWN_RIGHTS if has_token else None
        self._management = Management.of(self._loop, settings.management, amqp)
        key = settings.control_key
        self._actor = Actor(store.directory, users, own, lambda: amqp, store.url, control_key=key)

    def run(self) -> ExitStatus:
        """Record until SIGTERM or SIGHUP."""
        collect_rarely()  # each write makes thousands of objects, and frees them
        self._loop.watch(self._signals, self._act_on_signals)
        self._start_reading()
        self._session.open()
        Retention(self._loop, self._store, self._settings).begin()
        self._report_regularly()
        actions = self._serve_actions()
        self._loop.run()
        if actions is not None:
            actions.close()
        self._repeater.close()
        if self._management is not None:
            self._management.close()
        remove_report(self._store.directory)
        return self._status

    def _known_types(self) -> list[str]:
        try:
            with Record(self._store.directory, self._store.url) as record:
                return [row.worker_type for row in record.types()]
        except (RecordUnavailable, RecordDamaged) as error:
            self._log.warning("queues are counted once events name their worker types: %s", error)
            return []

    def _serve_actions(self) -> ActionServer | None:
        """Act for the web process; without a socket, record all the same."""
        path = actions_socket(self._store.directory)
        try:
            return ActionServer(
                self._loop,
                path,
                self._actor,
                write_audit=self._store.add_action,
                keep_cancels=self._repeater.keep,
            )
        except ActionFailed as error:
            self._log.error("the monitor only reads: %s", error)
            return None

    # --- batches ---

    def batch_came(self, position: int, batch: Batch, size: int) -> None:
        """Record a batch, together with others that come soon."""
        self._times.correct(batch)
        self._batches.append((position, batch))
        self._events += batch.size
        self._bytes += size
        self._depths.note(batch)
        is_enough = self._events >= _MOST_EVENTS or self._bytes >= _MOST_BYTES
        if is_enough or len(self._batches) >= _MOST_MESSAGES:
            self._write()
        else:
            self._write_soon()

    def message_skipped(self) -> None:
        """Acknowledge soon."""
        self._write_soon()

    def batches_lost(self) -> None:
        """Forget what is not written, and read it again."""
        self._is_reading = False
        self._forget()
        if not self._is_pausing:
            self._start_reading()

    def _write_soon(self) -> None:
        if self._timer is None:
            self._timer = self._loop.call_later(_WRITE_DELAY, self._write)

    def _write(self) -> None:
        try:
            if self._batches:
                self._store.write(self._batches)
        except (RecordUnavailable, RecordDamaged) as error:
            self._fail(str(error))
            return
        if self._batches:
            self._count()
        if self._store.take_newcomers():
            self._repeater.consumer_came()
        self._stream.acknowledge()
        self._forget()

    def _count(self) -> None:
        self._recorded += self._events
        self._recorded_at = time.time()
        if self._trouble:
            self._log.info("events are recorded again")
            self._trouble, self._retry_delay = "", _FIRST_RETRY
            self._tell()

    def _forget(self) -> None:
        self._batches = []
        self._events = self._bytes = 0
        if self._timer is not None:
            self._loop.cancel(self._timer)
            self._timer = None

    # --- a record that cannot be written ---

    def _fail(self, reason: str) -> None:
        """Read nothing for a while; what is not recorded stays in the stream."""
        if reason != self._trouble:
            self._log.error("events cannot be recorded: %s; trying again", reason)
        self._trouble, self._is_pausing = reason, True
        self._stream.stop()
        self._forget()
        self._loop.call_later(self._retry_delay, self._start_reading)
        self._retry_delay = min(2 * self._retry_delay, _LONGEST_RETRY)
        self._tell()

    def _start_reading(self) -> None:
        """Read what follows the recorded position."""
        self._is_pausing = False
        if self._draining:
            return
        try:
            if not self._store.acquire():
                self._has_connected = True
                self._stand_by()
                return
            position = self._store.position()
        except RecordRefused as error:
            self._refuse(error)
        except (RecordUnavailable, RecordDamaged) as error:
            self._fail(str(error))
        else:
            self._begin_to_write()
            self._stream.start(position)

    def _begin_to_write(self) -> None:
        """Broadcast the kept cancels: a consumer may have come since the last recorder wrote."""
        if not self._is_writer:
            self._is_writer = self._has_connected = True
            self._depths.add_all(self._known_types())
            self._repeater.repeat()
            self._tell()

    def _stand_by(self) -> None:
        """Read nothing while another monitor writes the record, and try again to take over."""
        self._is_writer, self._trouble = False, ""
        if self._take_over is not None:
            self._loop.cancel(self._take_over)
        self._take_over = self._loop.call_later(_TAKE_OVER_DELAY, self._start_reading)
        self._tell()

    def _refuse(self, error: RecordRefused) -> None:
        """End: the database will not take this user; but if it did before, it may again."""
        if self._has_connected:
            self._fail(str(error))
            return
        self._log.critical("%s", error)
        self.failure, self._status = str(error), error.status
        self._loop.call_later(0, self._loop.stop)

    # --- the broker comes and goes ---

    def session_up(self) -> None:
        """Report that this recorder stands by, if it does."""
        self._was_tried = True
        if not self._is_writer:
            self._tell()

    def stream_read(self) -> None:
        """Report the state, and count the queues."""
        self._is_reading = True
        self._tell()
        self._depths.ask()

    def session_down(self) -> None:
        """Report the state."""
        self._is_reading = False
        self._tell()

    def _on_error(self, error: BrokerUnavailable | BrokerRefused) -> None:
        if self._session.is_refused(error):
            self._log.critical("%s", error)
            self.failure = str(error)
            self._status = ExitStatus.REFUSED
            self._loop.stop()
            return
        self._log.warning("%s; trying again", error)
        self._was_tried = True
        self._tell()

    def _tell(self) -> None:
        """Report the state, if it is a new one, but not that it is ready before the broker may refuse it."""
        state = self._state_in_words()
        if state != self._state and (self._was_tried or self._trouble):
            self._state = state
            self._on_state(state)
            self._report()

    def _state_in_words(self) -> str:
        if self._trouble:
            return f"cannot record: {self._trouble}"
        if not self._is_writer:
            return STANDS_BY
        return "records" if self._is_reading else "waits for the broker"

    # --- from time to time ---

    def _report_regularly(self) -> None:
        if not self._is_writer and self._has_connected:
            self._depths.add_all(self._known_types())
        self._depths.ask()
        self._report()
        self._loop.call_later(REPORT_DELAY, self._report_regularly)

    def _report(self) -> None:
        report = Report(
            time.time(),
            self._state_in_words(),
            self._is_reading,
            self._trouble,
            self._recorded,
            self._recorded_at,
            self._stream.unreadable,
            self._stream.unreadable_at,
            {queue: size.messages for queue, size in self._depths.found.items()},
            self._depths.found_at,
            self._depths.found_until,
            {queue: size.consumers for queue, size in self._depths.found.items()},
            {} if self._management is None else self._management.found,
            "" if self._management is None else self._management.trouble,
            self._management is not None,
            self._session.broker if self._session.is_up else "",
        )
        self._tell_processes(self._processes.told(self._state_in_words()))
        with contextlib.suppress(OSError):  # a full disk: a probe says that the last report is old
            write_report(self._store.directory, report)

    def _tell_processes(self, told: Iterable[Other]) -> None:
        """Record the states of this monitor's processes, if it records."""
        if self._is_writer and not self._trouble:
            with contextlib.suppress(RecordUnavailable, RecordDamaged):  # the next batch says so
                self._store.note_processes(HOST, list(told), time.time())

    # --- the end ---

    def _act_on_signals(self) -> None:
        for _ in self._signals.pending():
            if self._draining:
                self._loop.stop()
            else:
                self._drain()

    def _drain(self) -> None:
        self._draining = True
        self._write()
        self._tell_processes(self._processes.ended())
        self._session.close(self._loop.stop)
