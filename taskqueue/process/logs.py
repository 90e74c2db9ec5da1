"""Log lines and their destinations: text or JSON, to stderr, syslog or a file.

One record is one line, whatever its message contains, so that no message can forge a line.
"""

import contextlib
import json
import logging
import os
import socket
import time
from collections.abc import Callable, MutableMapping
from dataclasses import replace
from datetime import datetime
from logging.handlers import SysLogHandler
from pathlib import Path
from typing import Any

from taskqueue.config import LoggingSettings
from taskqueue.errors import ConfigError
from taskqueue.process.log_file import LineWriter, LogFile
from taskqueue.process.startup import state_home
from taskqueue.texts import one_line

MESSAGE_LIMIT = 8192  # maximum bytes of a message and of a traceback
CONTEXT_LIMIT = 256  # maximum bytes of a context value
SYSLOG_SOCKET = "/dev/log"
ROOTS_LOG = "/var/log/taskqueue/taskqueue.log"
_STDERR = 2

# Seconds between two lines of a tally.
_TALLY_EVERY = 10.0

# The keywords of logging's own methods; all others are context.
_LOGGING_KEYWORDS = {"exc_info", "stack_info", "stacklevel", "extra"}

# In this order on a line; others follow.
_CONTEXT_ORDER = ("group", "worker", "workitem")

# Numbers of syslog(3), which journald reads between "<" and ">".
_PRIORITIES = {logging.CRITICAL: 2, logging.ERROR: 3, logging.WARNING: 4, logging.INFO: 6, logging.DEBUG: 7}


class Log(logging.LoggerAdapter[logging.Logger]):
    """A logger that adds context to its lines: group, worker, workitem or any other word.

    Context is given when the log is made, with `bind`, or with one line:
    ``log.info("started %s", name, workitem=workitem.id)``. Values of None are left out.
    """

    def __init__(self, name: str, **context: object) -> None:
        super().__init__(logging.getLogger(name), context)

    def bind(self, **context: object) -> "Log":
        """Return a log of the same name with additional context."""
        return Log(self.logger.name, **{**(self.extra or {}), **context})

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        """Move the context out of the keywords into the record (logging calls this)."""
        context = {**(self.extra or {})}
        for keyword in kwargs.keys() - _LOGGING_KEYWORDS:
            context[keyword] = kwargs.pop(keyword)
        kwargs["extra"] = {"context": context}
        return msg, kwargs


class Tally:
    """Counts frequent events; logs their number at once, then every ten seconds at most."""

    def __init__(self, log: Log, text: str) -> None:
        """Begin with none.

        text -- the log message, with placeholders for the number and the last detail
        """
        self._log = log
        self._text = text
        self._count = 0
        self._detail = ""
        self._next = 0.0  # monotonic; when the next line may be logged

    def count(self, detail: str) -> None:
        """Count one more."""
        self._count += 1
        self._detail = detail
        if time.monotonic() >= self._next:
            self.tell()

    def tell(self) -> None:
        """Log the number of events since the last line, if there are any."""
        if self._count:
            self._log.warning(self._text, self._count, self._detail)
            self._count, self._next = 0, time.monotonic() + _TALLY_EVERY


def set_up(settings: LoggingSettings, process: str, owner: str | None = None) -> None:
    """Send all log records of this process to the configured destination; may be called again.

    Args:
        settings: level, format and destination.
        process: the name of this process in its lines, such as "dispatcher".
        owner: the owner of a log file that root creates.

    Raises:
        ConfigError: the log file cannot be opened. A missing syslog is no error, as with openlog(3): lines
            are lost until it listens.
    """
    try:
        handler, kind = _handler(settings.destination, owner)
    except OSError as error:
        place = f"section [logging], option destination: {settings.destination}"
        raise ConfigError([f"{place}: {error.strerror}"]) from None
    handler.setFormatter(_Formatter(process, kind, settings.format))
    _replace_handlers(handler)
    logging.getLogger().setLevel(settings.level.upper())
    # pika writes six lines and a traceback for each failed attempt; broker/ writes one line.
    logging.getLogger("pika").setLevel(logging.CRITICAL)


def reachable(settings: LoggingSettings, *, in_background: bool) -> LoggingSettings:
    """Return the settings with a destination that exists.

    A daemon in the background has no terminal, so it logs to syslog instead of stderr. If no syslog listens,
    a daemon in the background logs to a file, one in the foreground to stderr.
    """
    if not _goes_to_syslog(settings, in_background=in_background):
        return settings
    elsewhere = None if _syslog_listens() else _own_log() if in_background else "stderr"
    return replace(settings, destination=elsewhere or "syslog")


def detour(settings: LoggingSettings, *, in_background: bool) -> str:
    """Return a warning with the actual destination if no syslog listens; "" otherwise."""
    if not _goes_to_syslog(settings, in_background=in_background) or _syslog_listens():
        return ""
    place = reachable(settings, in_background=in_background).destination
    lost = "log lines are lost until one does; set destination in section [logging] to a file"
    follows = lost if place == "syslog" else f"the log goes to {place}"
    return f"no syslog listens at {SYSLOG_SOCKET}: {follows}"


def _goes_to_syslog(settings: LoggingSettings, *, in_background: bool) -> bool:
    return settings.destination == "syslog" or (in_background and settings.destination == "stderr")


def _syslog_listens() -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        return probe.connect_ex(SYSLOG_SOCKET) == 0


def _own_log() -> str | None:
    """Return the path of the default log file; None if it cannot be written."""
    try:
        path = Path(ROOTS_LOG) if os.geteuid() == 0 else state_home("a log file") / "taskqueue/taskqueue.log"
    except ConfigError:
        return None
    existing = next(parent for parent in path.parents if parent.exists())
    return str(path) if existing.is_dir() and os.access(existing, os.W_OK) else None


def take_over(process: str) -> list[int]:
    """Log to the destination of the parent, under another process name; return the file descriptors in use.

    Nothing is opened: that could fail, or be forbidden for another user.
    """
    taken: list[int] = []
    for handler in logging.getLogger().handlers:
        if isinstance(handler.formatter, _Formatter):
            handler.setFormatter(handler.formatter.of(process))
        if isinstance(handler, LineWriter):
            taken.append(handler.descriptor)
        elif isinstance(handler, _Syslog) and handler.socket is not None:
            taken.append(handler.socket.fileno())
    return taken


def close() -> None:
    """Close the log destination; a child of another kind does not use it."""
    _replace_handlers(logging.NullHandler())


def escape(text: str, limit: int = MESSAGE_LIMIT) -> str:
    r"""Return text as one line: control characters escaped (``\n``, ``\x1b``), cut to `limit` bytes."""
    return _cut(one_line(text), limit)


def _cut(text: str, limit: int) -> str:
    """Leave out the middle of a long text; the end of a traceback is its most important part."""
    data = text.encode(errors="backslashreplace")
    if len(data) <= limit:
        return data.decode()
    half = limit // 2
    head, tail = data[:half].decode(errors="ignore"), data[-half:].decode(errors="ignore")
    return f"{head} ... {len(data) - 2 * half} bytes left out ... {tail}"


def _timestamp(record: logging.LogRecord, process: str) -> str:
    time = datetime.fromtimestamp(record.created)  # noqa: DTZ006 - an administrator reads local time
    return f"{time.isoformat(' ', 'milliseconds')} {record.levelname} {process}: "


def _priority(record: logging.LogRecord, process: str = "") -> str:
    return f"<{_PRIORITIES.get(record.levelno, 6)}>{process}"


def _syslog_tag(record: logging.LogRecord, process: str) -> str:
    return f"taskqueue-{process}[{record.process}]: "


# Prefix of a line, by kind of destination and format. Time, level and process are left out if the journal,
# syslog or the JSON object contains them.
_PREFIXES: dict[tuple[str, str], Callable[[logging.LogRecord, str], str]] = {
    ("plain", "text"): _timestamp,
    ("plain", "json"): lambda _record, _process: "",
    ("journal", "text"): lambda record, process: _priority(record, f"{process}: "),
    ("journal", "json"): lambda record, _process: _priority(record),
    ("syslog", "text"): _syslog_tag,
    ("syslog", "json"): _syslog_tag,
}


class _Formatter(logging.Formatter):
    """Formats a record as one line: the prefix of the destination, then text or JSON."""

    def __init__(self, process: str, kind: str, style: str) -> None:
        super().__init__()
        self._process, self._kind, self._form = process, kind, style
        self._prefix = _PREFIXES[kind, style]
        self._content = _json_content if style == "json" else _text_content

    def of(self, process: str) -> "_Formatter":
        """Return a formatter for another process and the same destination."""
        return _Formatter(process, self._kind, self._form)

    def format(self, record: logging.LogRecord) -> str:
        return self._prefix(record, self._process) + self._content(record, self._process)


def _text_content(record: logging.LogRecord, _process: str) -> str:
    message = "\n".join(filter(None, (record.getMessage(), _traceback(record))))
    context = " ".join(f"{key}={escape(value)}" for key, value in _context(record).items())
    return escape(message) + (f" [{context}]" if context else "")


def _json_content(record: logging.LogRecord, process: str) -> str:
    line = {
        "time": datetime.fromtimestamp(record.created).astimezone().isoformat(timespec="milliseconds"),
        "level": record.levelname.lower(),
        "process": process,
        **_context(record),
        "message": _cut(record.getMessage(), MESSAGE_LIMIT),
    }
    if traceback := _traceback(record):
        line["traceback"] = _cut(traceback, MESSAGE_LIMIT)
    return json.dumps(line)


def _context(record: logging.LogRecord) -> dict[str, str]:
    given: dict[str, object] = getattr(record, "context", {})
    context = {key: given[key] for key in _CONTEXT_ORDER if key in given} | given
    return {key: _cut(str(value), CONTEXT_LIMIT) for key, value in context.items() if value is not None}


def _traceback(record: logging.LogRecord) -> str:
    return logging.Formatter().formatException(record.exc_info) if record.exc_info else ""


class _Syslog(SysLogHandler):
    """Drops lines that syslog does not accept, as openlog(3) does."""

    socket: socket.socket | None

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 -- logging's name
        pass


def _handler(destination: str, owner: str | None) -> tuple[logging.Handler, str]:
    """Return a handler for the destination, and the kind of the destination."""
    if destination == "stderr":
        return LineWriter(_STDERR), "journal" if _stderr_is_journal() else "plain"
    if destination == "syslog":
        handler = _Syslog(SYSLOG_SOCKET, SysLogHandler.LOG_DAEMON)
        handler.append_nul = False  # some syslog daemons show it
        return handler, "syslog"
    if destination == _own_log():
        Path(destination).parent.mkdir(0o755 if os.geteuid() == 0 else 0o700, parents=True, exist_ok=True)
    return LogFile(destination, owner), "plain"


def _stderr_is_journal() -> bool:
    """Compare device and inode (systemd.exec(5)): children with another stderr inherit the variable, too."""
    try:
        status = os.fstat(_STDERR)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def _replace_handlers(handler: logging.Handler) -> None:
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
        if isinstance(handler, LineWriter) and isinstance(old, LineWriter):
            handler.succeed(old)
        with contextlib.suppress(OSError):
            old.close()
    root.addHandler(handler)
