"""The broker users whom this host's dispatchers believe, and those of the daemons that they hear of."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Final

from taskqueue.config import ANYBODY, AmqpSettings
from taskqueue.doctor.finding import Finding, Level
from taskqueue.doctor.inside import Inside
from taskqueue.doctor.rights import DISPATCHER
from taskqueue.doctor.times import Heard
from taskqueue.messages.events import CONSUMER, GATE, KEEPER, SCHEDULER

_BELIEVED: Final = (CONSUMER, DISPATCHER, SCHEDULER, KEEPER, GATE)  # daemons that dispatchers must believe
_MOST_NAMED: Final = 5  # daemons of a user


def judge_daemons(amqp: AmqpSettings, heard: Iterable[Heard]) -> Iterator[Finding]:
    """Yield users of other daemons whose messages the dispatchers of this host ignore.

    Args:
        amqp: the address and the users of this host's dispatchers.
        heard: the processes of all hosts.
    """
    if ANYBODY in amqp.trusted_users:
        return
    daemons: defaultdict[str, set[str]] = defaultdict(set)
    for each in heard:
        if each.user not in ("", amqp.user, *amqp.trusted_users) and each.name.partition(" ")[0] in _BELIEVED:
            daemons[each.user].add(f"{each.name} on {each.host}")
    for user, names in sorted(daemons.items()):
        text = (
            f"dispatchers of this host ignore what broker user {user!r:.102} reports for schedules, unique "
            f"work and limits: it is not trusted; {_listed(names)} have this user"
        )
        advice = (
            "add the user to trusted_users in [amqp] here, and restart the dispatcher; first give producers "
            "another user, if they have this one"
        )
        yield Finding(Level.WARNING, "rights", "untrusted-daemon", text, advice)


def judge_entries(amqp: AmqpSettings, inside: Inside) -> Iterator[Finding]:
    """Yield entries of `trusted_users` that are no users of the broker, if these are known."""
    if inside.users is None:
        return
    for user in amqp.trusted_users:
        if user != ANYBODY and user not in inside.users:
            text = f"trusted_users in [amqp] names {user!r:.102}, and the broker has no such user"
            advice = "correct the name, or remove it: a user who gets that name later would be trusted"
            yield Finding(Level.WARNING, "rights", "unknown-user", text, advice)


def _listed(names: Iterable[str]) -> str:
    ordered = sorted(names)
    more = len(ordered) - _MOST_NAMED
    return ", ".join(ordered[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
