"""RabbitMQ: connections, publishing, consuming, queues. No other package imports the AMQP client.

The package itself imports nothing: a command that needs only the private node does not wait for the import of
the AMQP client.
"""
