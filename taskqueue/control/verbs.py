"""The commands of administrators to pools: each verb, for the command line and the monitor."""

import time
from typing import Final

from taskqueue.control.answers import Answers, Commanding
from taskqueue.control.client import known_host
from taskqueue.control.controller import ROLL, SCALE
from taskqueue.control.directives import Directive, Directives, Size
from taskqueue.errors import CommandRefused

#: Seconds to wait for the answers to a question.
PATIENCE: Final = 1.0
#: Seconds to wait for the answers to a command; a consumer may be busy with a large body.
PATIENCE_OF_CHANGE: Final = 5.0


def pause(command: Commanding, worker_type: str, directive: Directive) -> Answers:
    """Have all pools take no workitems of a type; `Command.change` has the exceptions, here and below."""
    return command.change(lambda found: found.with_pause(worker_type, directive))


def resume(command: Commanding, worker_type: str) -> Answers:
    """Have all pools take workitems of a type again. Raises CommandRefused if it is not paused."""
    was_paused: list[bool] = []  # at first: it may be called again after it was written

    def without_pause(found: Directives) -> Directives:
        was_paused.append(worker_type in found.paused(time.time()))
        if not was_paused[0]:
            raise CommandRefused(f"worker type {worker_type!r} is not paused")
        return found.with_pause(worker_type, None)

    return command.change(without_pause)


def set_drain(command: Commanding, host: str, drain: Directive | None) -> Answers:
    """Have the pools of a host take nothing new, or for None, take workitems again; return their answers.

    Raises CommandRefused if no pool has run there.
    """
    return command.change(lambda found: found.with_drain(known_host(host, found.hosts), drain)).of(host)


def scale(command: Commanding, group: str, workers: int | None, host: str) -> Answers:
    """Give a group a number of workers until the next reload; return the answers of the hosts that are meant.

    Args:
        command: asks the pools.
        group: the group, or a worker type with one group.
        workers: the number; None for that of the configuration.
        host: the host; "" for all.

    Raises:
        CommandRefused: no pool has the group.
        NoPool: no pool has answered.
        BrokerUnavailable: no connection, or it was lost.
        BrokerRefused: wrong user, password or virtual host.
    """
    answers = command.ask(verb=SCALE, name=group, workers=workers, host=host).of(host)
    if not answers.with_group(group) and not answers.faults and not answers.errors:
        raise CommandRefused(f"no pool has a group {group}")
    return answers


def keep_size(command: Commanding, group: str, size: Size | None, host: str) -> Answers:
    """Give a group a number of workers until that is taken back.

    Arguments and result are those of `scale`; CommandRefused: no pool has run on the host.
    """

    def with_size(found: Directives) -> Directives:
        return found.with_size(group, known_host(host, found.hosts) if host else "", size)

    return command.change(with_size).of(host)


def roll(command: Commanding, group: str, host: str) -> Answers:
    """Begin to replace the workers of a group or type, "" for all; arguments and exceptions as of `scale`."""
    answers = command.ask(verb=ROLL, name=group, host=host).of(host)
    if not answers.rolling(command.id) and not answers.faults and not answers.errors:
        raise CommandRefused(f"no pool has a group {group}" if group else "no pool has a group with workers")
    return answers
