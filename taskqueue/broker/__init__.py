"""RabbitMQ: connections, publishing, consuming, queues; nothing outside this package speaks AMQP.

The package itself imports nothing, so that a command which needs only the private node does not pay
for the AMQP client.
"""
