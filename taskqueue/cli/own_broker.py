"""A supervisor that has a private broker, and tells its members where that is."""

from taskqueue import address
from taskqueue.cli import options
from taskqueue.config import AmqpSettings
from taskqueue.private_broker.node import PrivateBroker
from taskqueue.process.children import Exit
from taskqueue.process.supervisor_loop import SupervisorLoop


class Household(SupervisorLoop):
    """Keeps members that find the broker's address in a nameless file, and the broker, if that is ours."""

    def __init__(
        self, name: str, stop_timeout: float, amqp: AmqpSettings, broker: PrivateBroker | None
    ) -> None:
        """Begin with no members; `broker`, if there is one, has the address `amqp`."""
        super().__init__(name, stop_timeout)
        self.descriptor = options.store(amqp)
        self._broker = broker

    @property
    def needs_broker(self) -> bool:
        """Whether a broker that ends is to be started again."""
        return not self.is_stopping

    def bury_stranger(self, end: Exit) -> None:
        """Start the broker again, on the same data, if it was that which ended."""
        if self._broker is None or self._broker.alive or not self.needs_broker:
            return
        self.log.error("the private broker ended (%s); starting it again", end.cause)
        self._broker.start()
        amqp = address.of_private_broker(self._broker.url)
        if amqp != options.stored(self.descriptor):
            self.log.warning(
                "somebody else has the private broker's port; it is at %s:%d now", *amqp.hosts[0]
            )
            options.store_instead(self.descriptor, amqp)
            self.reload()
