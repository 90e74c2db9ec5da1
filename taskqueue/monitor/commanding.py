"""The recorder's side of requests about pools: it checks the right again, then signs and sends the command.

The key is read for each command: so a new key, or its removal, has effect at once.
"""

import time
from pathlib import Path
from typing import Any

from taskqueue.config import AmqpSettings
from taskqueue.control import key, verbs
from taskqueue.control.answers import Answers
from taskqueue.control.client import Command
from taskqueue.control.directives import Directive, Size
from taskqueue.errors import CommandRefused
from taskqueue.messages.results import HOST
from taskqueue.monitor.asking import ActionFailed
from taskqueue.monitor.web.parameters import BadRequest
from taskqueue.monitor.web.pools import DRAIN, PAUSE, RESUME, SCALE, SHOW, UNDRAIN, PoolRequest
from taskqueue.monitor.web.rights import Rights

Json = dict[str, Any]


def perform(amqp: AmqpSettings, control_key: str | None, rights: Rights, request: PoolRequest) -> Json:
    """Return what the pools answer; its member `count` is the number of those that answer.

    control_key -- the file with the key; None: this monitor commands no pools

    Raises:
        NoRight: the user may not, or has limits: a pool works for all tenants.
        BadRequest: the command cannot be carried out, as for a host that no pool has run on.
        ActionFailed: the monitor has no key.
        NoPool, or another TaskqueueError of the key or the broker: nobody answers.
    """
    rights.need(request.role)
    rights.need_all()
    if control_key is None:
        raise ActionFailed("this monitor has no control key: set control_key in section [monitor]")
    timeout = verbs.PATIENCE if request.verb == SHOW else verbs.PATIENCE_OF_CHANGE
    command = Command(amqp, key.read(Path(control_key)), timeout=timeout)
    try:
        answers = _give(command, request, f"{rights.user} (monitor on {HOST})")
    except CommandRefused as error:
        raise BadRequest(str(error)) from None
    told = {"command": command.id, "complaints": answers.complaints}
    return {"count": len(answers.pools), **told, **answers.plain()}


def _give(command: Command, request: PoolRequest, by: str) -> Answers:
    now, verb = time.time(), request.verb
    if verb == SHOW:
        return command.ask()
    if verb == PAUSE:
        until = None if request.period is None else now + request.period
        return verbs.pause(command, request.group, Directive(by, now, until))
    if verb == RESUME:
        return verbs.resume(command, request.group)
    if verb in (DRAIN, UNDRAIN):
        return verbs.set_drain(command, request.host, Directive(by, now) if verb == DRAIN else None)
    if verb == SCALE and request.keep:
        size = None if request.workers is None else Size(request.workers, by, now)
        return verbs.keep_size(command, request.group, size, request.host)
    if verb == SCALE:
        return verbs.scale(command, request.group, request.workers, request.host)
    return verbs.roll(command, request.group, request.host)
