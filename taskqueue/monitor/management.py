"""The broker's management API, for facts that AMQP does not tell: nodes, connections, queue types, policies.

The API is that of RabbitMQ's plugin rabbitmq_management (https://www.rabbitmq.com/docs/management#http-api).
"""

import base64
import contextlib
import http.client
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from typing import Any, Final, Self
from urllib.parse import quote, urlencode, urlsplit

from taskqueue.broker.loop import ActionQueue, EventLoop
from taskqueue.config import AmqpSettings

_DELAY: Final = 30.0  # seconds between two questions
_TIMEOUT: Final = 3.0  # seconds for an answer
_LONGEST_ANSWER: Final = 15.0  # seconds until the end of an answer
_LARGEST: Final = 16 * 1024 * 1024  # bytes of an answer
_MOST: Final = 500  # queues, and connections; the API's own limit of a page
_LONGEST: Final = 300  # characters of a text
_NODE: Final = ("name", "running", "mem_used", "mem_limit", "mem_alarm", "disk_free", "disk_free_limit",
                "disk_free_alarm", "fd_used", "fd_total", "uptime")  # fmt: skip
_CONNECTION: Final = ("name", "user", "peer_host", "channels", "state", "node", "connected_at")
_TEXTS: Final = ("name", "user", "peer_host", "state", "node")
_LARGEST_NUMBER: Final = 1e18

Found = Mapping[str, Any]


class Management:
    """Asks the management API from time to time, in a thread."""

    def __init__(self, loop: EventLoop, url: str, amqp: AmqpSettings) -> None:
        """Ask at once.

        loop -- gets the answers
        url -- of the API, without a path
        amqp -- its user and password are the API's, its vhost is the one that is asked for
        """
        self.found: Found = {}  # nodes, queues and connections; empty before the first answer
        self.trouble = ""  # why they are not known
        self._loop, self._url, self._amqp = loop, url, amqp
        self._thread = ThreadPoolExecutor(1, "management")
        self._done = ActionQueue()
        loop.watch(self._done, self._done.run_all)
        self._ask()

    @classmethod
    def of(cls, loop: EventLoop, url: str | None, amqp: AmqpSettings) -> Self | None:
        """Ask the API of a URL; None without one."""
        return None if url is None else cls(loop, url, amqp)

    def close(self) -> None:
        """Ask no more."""
        self._thread.shutdown(wait=False, cancel_futures=True)
        self._loop.unwatch(self._done)

    def _ask(self) -> None:
        self._thread.submit(self._read)

    def _take(self, found: Found, trouble: str) -> None:
        self.found, self.trouble = found, trouble
        self._loop.call_later(_DELAY, self._ask)

    # --- in the thread ---

    def _read(self) -> None:
        found, trouble = _answers(self._get, self._amqp.vhost)
        self._done.put(lambda: self._take(found, trouble))

    def _get(self, path: str) -> Any:
        return get(self._url, self._amqp, path)


def get(url: str, amqp: AmqpSettings, path: str) -> Any:
    """Return an answer of the API; no redirection and no proxy of the environment gets the password.

    Args:
        url: of the API, without a path.
        amqp: has its user and password.
        path: below /api/, with the query.

    Raises one of FAULTS, which `reason` explains.
    """
    where = urlsplit(url)
    if where.scheme == "https":
        context = ssl.create_default_context()
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(
            where.netloc, timeout=_TIMEOUT, context=context
        )
    else:
        connection = http.client.HTTPConnection(where.netloc, timeout=_TIMEOUT)
    credentials = base64.b64encode(f"{amqp.user}:{amqp.password}".encode()).decode()
    timer = None
    try:
        connection.connect()
        timer = threading.Timer(_LONGEST_ANSWER, _end, (connection.sock,))
        timer.daemon = True
        timer.start()
        connection.request("GET", f"/api/{path}", headers={"Authorization": f"Basic {credentials}"})
        answer = connection.getresponse()
        if answer.status != HTTPStatus.OK:
            raise _Refused(answer.status)
        return json.loads(answer.read(_LARGEST + 1))
    finally:
        if timer is not None:
            timer.cancel()
        connection.close()


def _end(sock: socket.socket) -> None:
    """End an answer that comes so slowly that its time is over."""
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


class _Refused(Exception):
    """The API has answered with another status than 200."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


#: What `get` raises, and what reading an answer of another server may.
FAULTS: Final = (
    _Refused,
    OSError,
    http.client.HTTPException,
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    OverflowError,  # int() of a number beyond floats
    RecursionError,  # of json.loads, by deep nesting
)


def _answers(get: Callable[[str], Any], vhost: str) -> tuple[Found, str]:
    """Return what the API tells, and in words what it does not."""
    paging = {"page": 1, "page_size": _MOST}
    names = {"name": "^(taskqueue|worker_)", "use_regex": "true"}
    questions: tuple[tuple[str, str, Callable[[Any], Any]], ...] = (
        ("nodes", "nodes", _nodes),
        ("queues", f"queues/{quote(vhost, safe='')}?{urlencode(paging | names)}", _queues),
        ("connections", f"connections?{urlencode(paging)}", _connections),
    )
    found: dict[str, Any] = {"at": time.time()}
    troubles = []
    for name, path, read in questions:
        try:
            found[name] = read(get(path))
        except FAULTS as error:
            troubles.append(f"{name}: {reason(error)}")
    return found, "; ".join(troubles)


def reason(error: Exception) -> str:
    """Return why the API did not tell, in words; error -- one of FAULTS."""
    if isinstance(error, _Refused):
        if error.status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            return "the broker's user may not ask for them; it needs the tag monitoring"
        return f"status {error.status}"
    if isinstance(error, OSError):
        return _text(error.strerror or error)
    return "the answer is not that of RabbitMQ's management API"


def _nodes(answer: Any) -> list[dict[str, Any]]:
    return [_some(node, _NODE) for node in answer[:_MOST]]


def _queues(answer: Any) -> dict[str, dict[str, Any]]:
    return {_text(queue["name"]): _queue(queue) for queue in answer["items"]}


def _queue(queue: Any) -> dict[str, Any]:
    arguments = queue.get("arguments") or {}
    kind = queue.get("type") or arguments.get("x-queue-type") or "classic"
    policies = (queue.get("policy"), queue.get("operator_policy"))
    return {"type": _text(kind), "policies": [_text(each) for each in policies if each]}


def _connections(answer: Any) -> dict[str, Any]:
    shown = []
    for each in answer["items"]:
        given = (each.get("client_properties") or {}).get("connection_name")
        shown.append(_some(each, _CONNECTION) | ({"name": _text(given)} if given else {}))
    return {"number": int(answer["total_count"]), "shown": shown}


def _some(values: Any, names: tuple[str, ...]) -> dict[str, Any]:
    """Return members of an object: texts cut to a length, and numbers that a page can show.

    Others are left out: RabbitMQ has a text for the free disk that it cannot measure.
    """
    found = {name: values[name] for name in names if values.get(name) is not None}
    texts = {name: _text(value) for name, value in found.items() if name in _TEXTS}
    return texts | {name: value for name, value in found.items() if name not in _TEXTS and _is_number(value)}


def _is_number(value: object) -> bool:
    return isinstance(value, bool | int | float) and 0 <= value <= _LARGEST_NUMBER


def _text(value: object) -> str:
    return str(value)[:_LONGEST]
