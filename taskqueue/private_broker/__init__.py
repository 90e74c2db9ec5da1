"""A RabbitMQ node of one's own, for one machine and for tests."""
