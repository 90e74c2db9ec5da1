"""The user of messages in internal queues: the broker refuses any but that of the connection.

https://www.rabbitmq.com/docs/validated-user-id
"""

from taskqueue.amqp.properties import with_user


def signed(properties: bytes, user: str | None) -> bytes:
    """Return encoded properties with the property user_id; unchanged if `user` is None."""
    return properties if user is None else with_user(properties, user)
