"""The schedules that plugin code declares: `SCHEDULES` of a plugin, `cron` and `every` of a task."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from taskqueue.errors import BadSchedule, PluginError
from taskqueue.schedules.definition import Definition
from taskqueue.worker.frames import Service

_MOST: Final = 100  # schedules of a plugin
_LARGEST: Final = 128 * 1024  # bytes of all of them in the frame that names them
#: Fields of a definition that plugin code does not set.
_OTHERS: Final = frozenset(("worker_type", "content_type"))


def definition(worker_type: str, declared: Mapping[str, Any]) -> Definition:
    """Return the definition of a declared schedule.

    declared -- fields of a Definition; `body` is a JSON value

    Raises BadSchedule.
    """
    if not isinstance(declared, Mapping):
        raise BadSchedule(f"a schedule of {worker_type} is a {type(declared).__name__}, expected a dict")
    known = set(Definition.__dataclass_fields__) - _OTHERS
    if unknown := sorted(map(str, set(declared) - known)):
        raise BadSchedule(f"a schedule of {worker_type} has {unknown[0]!r:.60}; known are {sorted(known)}")
    try:
        body = json.dumps(declared.get("body"))
    except (TypeError, ValueError, RecursionError) as error:
        raise BadSchedule(f"the body of a schedule of {worker_type} is no JSON: {error}") from None
    return Definition.checked({**declared, "body": body, "worker_type": worker_type})


def with_schedules(
    services: Sequence[Service], worker_type: str, declared: Sequence[Mapping[str, Any]]
) -> tuple[Service, ...]:
    """Return what a worker serves, with the schedules that its class declares for its own worker type.

    Raises PluginError if a schedule has a fault, or there are too many.
    """
    try:
        own = tuple(definition(worker_type, each) for each in declared)
    except BadSchedule as error:
        raise PluginError(f"SCHEDULES of plugin {worker_type!r}: {error}") from None
    made = tuple(services) or ((Service(worker_type, schedules=own),) if own else ())
    schedules = [each.as_json() for service in made for each in service.schedules]
    if len(schedules) > _MOST or len(json.dumps(schedules)) > _LARGEST:
        raise PluginError(f"plugin {worker_type!r} declares more than {_MOST} schedules, or 128 KiB of them")
    return made
