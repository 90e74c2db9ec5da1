"""Submits a workitem with pika's defaults, and prints its result: URL BODY reply|results."""

import sys

import pika

url, body, mode = sys.argv[1:]
connection = pika.BlockingConnection(pika.URLParameters(url))
channel = connection.channel()
channel.queue_declare("taskqueue", durable=True)
if mode == "reply":
    queue = channel.queue_declare("", exclusive=True).method.queue
    channel.basic_publish("", "taskqueue", body.encode(), pika.BasicProperties(reply_to=queue))
else:
    queue = channel.queue_declare("results", durable=True).method.queue
    channel.basic_publish("", "taskqueue", body.encode())
answer = next(channel.consume(queue, auto_ack=True, inactivity_timeout=30))[2]
print(answer.decode())
connection.close()
