"""Asking the recorder to act: one JSON line each way over a Unix socket.

A request has the members user, action, dry_run, and ids or filter; to change the users, it has user, action,
and account, or name and is_token; to read or replace a body, it has user, action, id, tenant and body. An
answer has count, and for a body that is read, body, content_type and fields; or kind and error.
"""

import asyncio
import base64
import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from taskqueue.errors import ExitStatus, TaskqueueError
from taskqueue.monitor.web.accounts import AccountRequest
from taskqueue.monitor.web.api import ActionRequest, NeverSeen
from taskqueue.monitor.web.bodies import BodyAnswer, BodyRequest
from taskqueue.monitor.web.parameters import BadRequest, json_of
from taskqueue.monitor.web.requests import VerbRequest
from taskqueue.monitor.web.rights import NoRight, Rights

LONGEST_LINE: Final = 2 * 1024 * 1024  # bytes
_TIMEOUT: Final = 300.0  # seconds; to read a long queue of dead letters takes its time


class ActionFailed(TaskqueueError):
    """The recorder cannot be reached, or the broker does not let it act."""

    status = ExitStatus.UNAVAILABLE


#: Exceptions of the recorder by the kind of its answer.
KINDS: Final[dict[str, type[TaskqueueError]]] = {
    "right": NoRight,
    "request": BadRequest,
    "missing": NeverSeen,
    "failed": ActionFailed,
}


def line_of(rights: Rights, request: ActionRequest) -> bytes:
    """Return a request as a line."""
    chosen: dict[str, Any] = request.about if request.wanted is None else {"filter": json_of(request.wanted)}
    content = {"user": rights.user, "action": request.action, "dry_run": request.dry_run, **chosen}
    return json.dumps(content).encode() + b"\n"


async def ask(path: Path, rights: Rights, request: ActionRequest) -> int:
    """Have the recorder act; return the number of workitems.

    Args:
        path: of the recorder's socket.
        rights: of the user, whose name the recorder looks up again.
        request: what to do.

    Raises:
        NoRight: the user may not.
        BadRequest: the recorder refuses the request.
        ActionFailed: no answer, or the broker refused.
    """
    return _count(await _ask(path, line_of(rights, request)))


async def ask_change(path: Path, rights: Rights, request: AccountRequest) -> None:
    """Have the recorder change the users and tokens.

    Arguments and exceptions are those of `ask`.
    """
    content = {"user": rights.user, "action": request.action, **request.plain()}
    await _ask(path, json.dumps(content).encode() + b"\n")


async def ask_body(path: Path, rights: Rights, request: BodyRequest) -> BodyAnswer:
    """Have the recorder read or replace a body.

    Arguments and exceptions are those of `ask`.
    """
    content = {"user": rights.user, "action": request.action, **request.plain()}
    answer = await _ask(path, json.dumps(content).encode() + b"\n")
    body = base64.b64decode(str(answer.get("body", "")))
    fields = tuple((str(name), str(value)) for name, value in answer.get("fields", ()))
    return BodyAnswer(_count(answer), body, str(answer.get("content_type", "")), fields)


async def ask_daemons(path: Path, rights: Rights, request: VerbRequest) -> dict[str, Any]:
    """Have the recorder ask or command the scheduler, the pools or a flow process; return its answer.

    Arguments and exceptions are those of `ask`; NeverSeen: there is no such schedule or workflow that the
    user sees.
    """
    content = {"user": rights.user, "action": request.action, **request.plain()}
    return await _ask(path, json.dumps(content).encode() + b"\n")


def _count(answer: Mapping[str, Any]) -> int:
    return int(answer["count"])


async def _ask(path: Path, line: bytes) -> dict[str, Any]:
    try:
        async with asyncio.timeout(_TIMEOUT):
            answer = await _exchange(path, line)
    except (OSError, TimeoutError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error) or "no answer in time"
        raise ActionFailed(f"the recorder cannot be asked: {reason}") from None
    if isinstance(answer.get("count"), int):
        return answer
    kind = KINDS.get(str(answer.get("kind")), ActionFailed)
    raise kind(str(answer.get("error", "the recorder gave no reason")))


async def _exchange(path: Path, line: bytes) -> dict[str, Any]:
    reader, writer = await asyncio.open_unix_connection(str(path))
    try:
        writer.write(line)
        await writer.drain()
        answer = json.loads(await reader.read())  # of any length: a body is in it
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
    if not isinstance(answer, dict):
        raise ValueError("its answer is no object")  # noqa: TRY004 -- of a JSON text
    return answer
