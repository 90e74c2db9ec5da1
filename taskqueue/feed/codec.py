"""How jobs travel: as JSON, or as pickles that are signed."""

import base64
import hashlib
import hmac
import json
import pickle
from collections.abc import Sequence
from typing import Any, Final, Protocol

from taskqueue.errors import ConfigError, JobUnwritable, WorkitemUnreadable
from taskqueue.messages.content import JSON
from taskqueue.texts import shorten

#: The content type of a chunk of pickled jobs: the signature, then the pickle.
PICKLE: Final = "application/x-taskqueue-pickle"

_SHORTEST_KEY: Final = 16  # bytes
_SIGNATURE: Final = hashlib.sha256().digest_size
_SCALARS: Final = frozenset({int, str, float, bool, type(None)})  # JSON gives them back as they were


class Codec(Protocol):
    """One way of writing jobs."""

    content_type: str

    def encode(self, jobs: Sequence[Any]) -> bytes:
        """Return jobs as the body of a chunk; JobUnwritable where one of them cannot be written so."""

    def decode(self, body: bytes) -> list[Any]:
        """Return the jobs of a chunk; WorkitemUnreadable where it is none that can be believed."""

    def to_plain(self, job: Any) -> Any:
        """Return one job in a form that JSON can express."""

    def from_plain(self, plain: Any) -> Any:
        """Return the job that `to_plain` wrote; WorkitemUnreadable where it did not."""


class JsonCodec:
    """Jobs as JSON, and only such jobs as arrive as they were sent."""

    content_type = JSON

    def __init__(self) -> None:
        """Prepare the encoder."""
        self._encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode

    def encode(self, jobs: Sequence[Any]) -> bytes:
        """Return the jobs as a list."""
        try:
            text = self._encode(jobs)
            if _SCALARS.issuperset(map(type, jobs)) or json.loads(text) == jobs:
                return text.encode("ascii")
        except (TypeError, ValueError, RecursionError):
            pass
        raise JobUnwritable(self._complaint(jobs))

    def _complaint(self, jobs: Sequence[Any]) -> str:
        """Say which job it is; with tuples, or keys that are no text, another one would arrive."""
        for job in jobs:
            try:
                text = self._encode(job)
                reason = "" if json.loads(text) == job else f"it would arrive as {shorten(text, 60)}"
            except (TypeError, ValueError, RecursionError) as error:
                reason = str(error)
            if reason:
                what = f"job {shorten(_represent(job), 60)} cannot be sent as JSON ({shorten(reason, 120)})"
                return f"{what}; yield what JSON can express, or use --pickle"
        return "jobs cannot be sent as JSON; use --pickle"

    def decode(self, body: bytes) -> list[Any]:
        """Read the list."""
        try:
            jobs = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise WorkitemUnreadable(f"no list of jobs: {error}") from None
        if not isinstance(jobs, list):
            raise WorkitemUnreadable(f"expected a list of jobs, found a {type(jobs).__name__}")
        return jobs

    def to_plain(self, job: Any) -> Any:
        """Return the job itself."""
        return job

    def from_plain(self, plain: Any) -> Any:
        """Return the job itself."""
        return plain


class PickleCodec:
    """Jobs as pickles under an HMAC-SHA256 (RFC 2104); nothing is unpickled that the key has not signed."""

    content_type = PICKLE

    def __init__(self, key: bytes, purpose: str) -> None:
        """Sign and check with `key`.

        purpose -- what the jobs are for, such as a worker type: what was signed for another one is not taken
        """
        check_key(key)
        self._hmac = hmac.new(key, purpose.encode() + b"\0", hashlib.sha256)

    def _sign(self, data: bytes) -> bytes:
        signing = self._hmac.copy()
        signing.update(data)
        return signing.digest()

    def encode(self, jobs: Sequence[Any]) -> bytes:
        """Return signature and pickle."""
        try:
            data = pickle.dumps(list(jobs), pickle.HIGHEST_PROTOCOL)
        except Exception as error:  # noqa: BLE001 -- the user's classes may raise anything
            reason = shorten(f"{type(error).__name__}: {error}", 200)
            raise JobUnwritable(f"a job cannot be pickled ({reason})") from None
        return self._sign(data) + data

    def decode(self, body: bytes) -> list[Any]:
        """Check the signature, then unpickle."""
        data = body[_SIGNATURE:]
        if not hmac.compare_digest(body[:_SIGNATURE], self._sign(data)):
            raise WorkitemUnreadable(
                "pickled jobs that were not signed with this key; expected the feeder's key"
            )
        jobs = pickle.loads(data)  # noqa: S301 -- signed by who has the key
        return list(jobs)

    def to_plain(self, job: Any) -> Any:
        """Return a signed pickle as text."""
        return {"pickle": base64.b64encode(self.encode([job])).decode()}

    def from_plain(self, plain: Any) -> Any:
        """Check and unpickle such a text."""
        try:
            body = base64.b64decode(plain["pickle"], validate=True)
        except (TypeError, KeyError, ValueError):
            raise WorkitemUnreadable("expected a pickled job") from None
        return self.decode(body)[0]


def codec(key: bytes | None, purpose: str) -> Codec:
    """Return how jobs travel: pickled where there is a key, else as JSON."""
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
