"""AMQP 0-9-1 as bytes: header tables, properties, frames. No pika, no sockets."""
