"""The user of messages in internal queues: the broker refuses any but that of the connection.

https://www.rabbitmq.com/docs/validated-user-id
"""

from functools import lru_cache

from taskqueue.amqp.properties import Properties


@lru_cache(maxsize=64)  # most messages of a process have the same properties
def signed(properties: bytes, user: str | None) -> bytes:
    """Return encoded properties with the property user_id; unchanged if `user` is None."""
    return properties if user is None else Properties.decode(properties).replace(user_id=user).encode()
