"""Messages between a feeder and its workers: jobs as JSON or signed pickles, chunk ids, receipts."""

import base64
import hashlib
import hmac
import json
import operator
import os
import pickle
import re
import socket
import threading
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from taskqueue.amqp.properties import Properties
from taskqueue.errors import ConfigError, JobUnwritable, WorkitemUnreadable
from taskqueue.messages import jsonrpc
from taskqueue.messages.content import JSON
from taskqueue.messages.names import ENDED, STARTED, STATUS
from taskqueue.messages.results import SUCCEEDED, Failure
from taskqueue.texts import shorten

# --- jobs ---

#: The content type of a chunk of pickled jobs: the signature, then the pickle.
PICKLE: Final = "application/x-taskqueue-pickle"

_SHORTEST_KEY: Final = 16  # bytes
_SIGNATURE: Final = hashlib.sha256().digest_size
_SCALARS: Final = frozenset({int, str, float, bool, type(None)})  # JSON preserves them
_to_json: Final = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode


class JsonCodec:
    """Jobs as JSON, and only such jobs as arrive as they were sent."""

    content_type = JSON

    def encode(self, jobs: Sequence[Any]) -> bytes:
        """Return jobs as the body of a chunk; JobUnwritable if JSON cannot express one of them."""
        try:
            text = _to_json(jobs)
            if _SCALARS.issuperset(map(type, jobs)) or json.loads(text) == jobs:
                return text.encode("ascii")
        except (TypeError, ValueError, RecursionError):
            pass
        raise JobUnwritable(_unwritable_reason(jobs))

    def decode(self, body: bytes) -> list[Any]:
        """Return the jobs of a chunk; WorkitemUnreadable if it is no list."""
        try:
            jobs = jsonrpc.decode(body)
        except (ValueError, RecursionError) as error:
            raise WorkitemUnreadable(f"the body is not a list of jobs: {error}") from None
        if not isinstance(jobs, list):
            raise WorkitemUnreadable(f"expected a list of jobs, found a {type(jobs).__name__}")
        return jobs

    def to_plain(self, job: Any) -> Any:
        """Return a job as a JSON value: the job itself."""
        return job

    def from_plain(self, plain: Any) -> Any:
        """Return the job that `to_plain` wrote."""
        return plain


class PickleCodec:
    """Jobs as pickles under an HMAC-SHA256 (RFC 2104); nothing is unpickled that the key has not signed."""

    content_type = PICKLE

    def __init__(self, key: bytes, purpose: str) -> None:
        """Sign and check with `key`.

        purpose -- the worker type: a chunk that was signed for another one is refused
        """
        check_key(key)
        self._hmac = hmac.new(key, purpose.encode() + b"\0", hashlib.sha256)

    def _sign(self, data: bytes) -> bytes:
        signing = self._hmac.copy()
        signing.update(data)
        return signing.digest()

    def encode(self, jobs: Sequence[Any]) -> bytes:
        """Return signature and pickle; JobUnwritable if a job cannot be pickled."""
        try:
            data = pickle.dumps(list(jobs), pickle.HIGHEST_PROTOCOL)
        except Exception as error:  # noqa: BLE001 -- the user's classes may raise anything
            reason = shorten(f"{type(error).__name__}: {error}", 200)
            raise JobUnwritable(f"a job cannot be pickled ({reason})") from None
        return self._sign(data) + data

    def decode(self, body: bytes) -> list[Any]:
        """Check the signature, then unpickle; WorkitemUnreadable if the key did not sign this."""
        data = body[_SIGNATURE:]
        if not hmac.compare_digest(body[:_SIGNATURE], self._sign(data)):
            raise WorkitemUnreadable(
                "pickled jobs that were not signed with this key; expected the feeder's key"
            )
        jobs = pickle.loads(data)  # noqa: S301 -- signed with the key
        return list(jobs)

    def to_plain(self, job: Any) -> Any:
        """Return a job as a JSON value: an object with a signed pickle."""
        return {"pickle": base64.b64encode(self.encode([job])).decode()}

    def from_plain(self, plain: Any) -> Any:
        """Return the job that `to_plain` wrote. Raises WorkitemUnreadable for any other value."""
        try:
            body = base64.b64decode(plain["pickle"], validate=True)
        except (TypeError, KeyError, ValueError):
            raise WorkitemUnreadable("the body is not a pickled job") from None
        return self.decode(body)[0]


Codec = JsonCodec | PickleCodec


def codec(key: bytes | None, purpose: str) -> Codec:
    """Return the codec for jobs: signed pickles if there is a key, else JSON."""
    return JsonCodec() if key is None else PickleCodec(key, purpose)


def check_key(key: bytes) -> None:
    """Raise ConfigError for a key that is too short to sign with."""
    if len(key) < _SHORTEST_KEY:
        raise ConfigError(
            [f"the key to sign pickled jobs: expected {_SHORTEST_KEY} bytes or more, found {len(key)}"]
        )


def _represent(job: Any) -> str:
    try:
        return repr(job)
    except Exception:  # noqa: BLE001 -- the user's code
        return f"a {type(job).__name__}"


def _unwritable_reason(jobs: Sequence[Any]) -> str:
    """Name the first job that JSON does not preserve, such as a tuple, and the reason."""
    for job in jobs:
        try:
            text = _to_json(job)
            reason = "" if json.loads(text) == job else f"it would arrive as {shorten(text, 60)}"
        except (TypeError, ValueError, RecursionError) as error:
            reason = str(error)
        if reason:
            what = f"job {shorten(_represent(job), 60)} cannot be sent as JSON ({shorten(reason, 120)})"
            return f"{what}; yield what JSON can express, or use --pickle"
    return "jobs cannot be sent as JSON; use --pickle"


# --- chunks ---

#: The id of a chunk: feed, run, number in the run, pass, and, if they are consecutive, its jobs.
_ID: Final = re.compile(
    r"feed-(?P<feed>[0-9a-f]+)-(?P<run>\d+)-\d+-(?P<jobs>\w+)(-(?P<start>\d+)-(?P<end>\d+))?\Z"
)


@dataclass(frozen=True, slots=True)
class ChunkName:
    """The parts of a chunk's id, of this or of an earlier run of the feed."""

    feed: str
    run: int
    jobs: str  # the name of its pass
    numbers: range  # empty if they are not consecutive

    @classmethod
    def parse(cls, text: str) -> "ChunkName | None":
        """Parse an id; return None if it is not that of a chunk."""
        match = _ID.match(text)
        if match is None:
            return None
        numbers = range(int(match["start"]), int(match["end"])) if match["start"] else range(0)
        return cls(match["feed"], int(match["run"]), match["jobs"], numbers)


def chunk_id(feed: str, run: int, count: int, jobs: str, numbers: Sequence[int]) -> str:
    """Return the id of the `count`-th chunk of a run."""
    contiguous = f"-{numbers[0]}-{numbers[-1] + 1}" if isinstance(numbers, range) else ""
    return f"feed-{feed}-{run}-{count}-{jobs}{contiguous}"


# --- receipts ---

_LONGEST_MESSAGE: Final = 500  # characters
_LONGEST_TRACE: Final = 8000
_MOST_TRACES: Final = 50  # different ones of a chunk
_WHO: Final = f"{socket.gethostname()}:"


class Receipt:
    """Collects the failed jobs of a chunk in the worker, from any thread; all other jobs are done."""

    def __init__(self, threads: int) -> None:
        """Begin without failures; the worker performs `threads` jobs at a time."""
        self._threads = threads
        self._failed: list[tuple[int, str, str, int]] = []
        self._traces: dict[str, int] = {}
        self._lock = threading.Lock()

    def fail(self, position: int, error: BaseException) -> None:
        """Record the exception of a job."""
        failure = Failure.of(error)
        trace = shorten("".join(traceback.format_exception(error)[:-1]), _LONGEST_TRACE)
        message = shorten(failure.message, _LONGEST_MESSAGE)
        with self._lock:
            if trace not in self._traces and len(self._traces) < _MOST_TRACES:
                self._traces[trace] = len(self._traces)  # most jobs fail for the same reason
            self._failed.append((position, failure.type, message, self._traces.get(trace, -1)))

    def plain(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "worker": f"{_WHO}{os.getpid()}",
            "threads": self._threads,
            "failed": self._failed,
            "traces": list(self._traces),
        }


@dataclass(frozen=True, slots=True)
class Report:
    """The content of a receipt, checked: anybody can publish to a queue."""

    error: Failure | None  # of the chunk as a whole; None if it was performed
    seconds: float = 0.0  # that it took
    worker: str = ""
    threads: int = 1
    failures: Mapping[int, Failure] = field(default_factory=dict)  # by their jobs' positions in the chunk


class ReceiptUnreadable(ValueError):
    """The message is not a receipt; the text gives the reason."""


def read(properties: Properties, body: bytes, jobs: int) -> Report:
    """Return the content of a receipt for a chunk of `jobs` jobs. Raises ReceiptUnreadable."""
    try:
        headers, plain = properties.headers, jsonrpc.decode(body)
        if headers[STATUS] != SUCCEEDED:
            return Report(Failure(str(plain["error"]["type"]), str(plain["error"]["message"])))
        return Report(
            None,
            float(headers[ENDED] - headers[STARTED]),
            str(plain["worker"]),
            int(plain["threads"]),
            failures(plain, jobs),
        )
    except KeyError as error:
        raise ReceiptUnreadable(f"it has no {error}") from None
    except (ValueError, TypeError, IndexError, AttributeError, RecursionError) as error:
        raise ReceiptUnreadable(shorten(f"{type(error).__name__}: {error}", 200)) from None


def failures(plain: Mapping[str, Any], jobs: int) -> dict[int, Failure]:
    """Return the failures in a receipt for `jobs` jobs. Raises errors such as KeyError if it is invalid.

    A traceback does not have the line of its exception; it is empty beyond the first 50 different ones.
    """
    found, traces = {}, plain["traces"]
    for position, kind, message, trace in plain["failed"]:
        if not 0 <= position < jobs:
            raise ValueError(f"job {position} of {jobs}")
        found[operator.index(position)] = Failure(
            str(kind), str(message), str(traces[trace]) if trace >= 0 else ""
        )
    return found
