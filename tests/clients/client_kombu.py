"""Submits a workitem with kombu's defaults, and prints its result: URL BODY reply|results."""

import json
import sys

import kombu

url, body, mode = sys.argv[1:]
with kombu.Connection(url) as connection, connection.channel() as channel:
    if mode == "reply":
        name = kombu.Queue("", exclusive=True, auto_delete=True)(channel).queue_declare().queue
        queue, options = kombu.Queue(name)(channel), {"reply_to": name}
    else:
        queue, options = kombu.Queue("results", durable=True)(channel), {}
        queue.queue_declare()
    # An object, which kombu writes as JSON; what is published as text is JSON within JSON.
    taskqueue = kombu.Queue("taskqueue", durable=True)
    kombu.Producer(channel).publish(json.loads(body), routing_key="taskqueue", declare=[taskqueue], **options)
    answers: list[kombu.Message] = []
    with kombu.Consumer(channel, [queue], auto_declare=False, on_message=answers.append, no_ack=True):
        while not answers:
            connection.drain_events(timeout=30)
    answer = answers[0].body
    print(answer if isinstance(answer, str) else bytes(answer).decode())
