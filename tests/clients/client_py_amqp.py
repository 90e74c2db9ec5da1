"""Submits a workitem with py-amqp's defaults, and prints its result: URL BODY reply|results."""

import sys
from urllib.parse import unquote, urlsplit

import amqp

url, body, mode = urlsplit(sys.argv[1]), sys.argv[2], sys.argv[3]
host = f"{url.hostname}:{url.port}"
vhost = unquote(url.path[1:])
with amqp.Connection(host, userid=url.username, password=url.password, virtual_host=vhost) as connection:
    channel = connection.channel()
    channel.queue_declare("taskqueue", durable=True, auto_delete=False)
    if mode == "reply":
        queue = channel.queue_declare("", exclusive=True).queue
        message = amqp.Message(body, reply_to=queue)
    else:
        queue = channel.queue_declare("results", durable=True, auto_delete=False).queue
        message = amqp.Message(body)
    channel.basic_publish(message, "", "taskqueue")
    answers: list[amqp.Message] = []
    channel.basic_consume(queue, no_ack=True, callback=answers.append)
    while not answers:
        connection.drain_events(timeout=30)
    answer = answers[0].body
    print(answer if isinstance(answer, str) else answer.decode())
