"""Messages of failed and rejected workitems at the broker: read one, or retry it with another body."""

from collections.abc import Callable
from typing import Final

from taskqueue import deadletters
from taskqueue.amqp.tables import MalformedProperties
from taskqueue.broker.topology import FAILED_QUEUE, REJECTED_QUEUE
from taskqueue.config import AmqpSettings
from taskqueue.deadletters import DeadLetter
from taskqueue.messages import names
from taskqueue.monitor.web.parameters import BadRequest
from taskqueue.texts import shorten

Wanted = Callable[[DeadLetter], bool]
_MOST_FIELDS: Final = 100  # properties and headers of a message
_LONGEST_FIELD: Final = 1000  # characters


def read_letter(amqp: AmqpSettings, wanted: Wanted) -> DeadLetter:
    """Return the message that is wanted. Raises BadRequest if there is none."""
    found: list[DeadLetter] = []

    def look(letter: DeadLetter) -> bool:
        if wanted(letter):
            found.append(letter)
        return bool(found)

    for place in (FAILED_QUEUE, REJECTED_QUEUE):
        if not found:
            deadletters.browse(amqp, place, look)
    if not found:
        raise BadRequest("its message is no longer among the failed and rejected ones")
    return found[0]


def fields_of(letter: DeadLetter) -> list[tuple[str, str]]:
    """Return names and values of a message's properties and headers, for people.

    The history of its runs is left out: the record has it. Of too many fields, the first are returned, of
    a long value the beginning.
    """
    fields = dict(letter.properties.fields)
    try:
        headers = letter.headers
    except MalformedProperties as error:
        headers = {"headers": f"unreadable: {error}"}
    fields |= {name: value for name, value in headers.items() if name != names.HISTORY}
    shown = [(name, shorten(str(value), _LONGEST_FIELD)) for name, value in fields.items()]
    return shown[:_MOST_FIELDS]


def retry_with(amqp: AmqpSettings, wanted: Wanted, body: bytes) -> int:
    """Send a message back to its queue with another body; return the number of messages."""
    places = (FAILED_QUEUE, REJECTED_QUEUE)
    return sum(deadletters.retry(amqp, place, wanted, body=body) for place in places)
