"""Runs on a machine with the packages, with Debian's python3-amqp: a producer that counts what comes back.

``load.py COUNT RATE`` submits COUNT workitems to this machine's broker, RATE a second, and reads the results.
It says how many have arrived, and ends with status 0 when each is there and right.
"""

import contextlib
import hashlib
import json
import sys
import time
from pathlib import Path

import amqp

FILE = "/usr/share/common-licenses/GPL-3"
LAST_TIMEOUT = 90.0  # seconds from the last submission to the last result

count, rate = int(sys.argv[1]), float(sys.argv[2])
digest = hashlib.sha256(Path(FILE).read_bytes()).hexdigest()
waiting = {str(number) for number in range(count)}


def receive(message):
    assert json.loads(message.body)["sha256"] == digest, message.body
    waiting.discard(message.properties["correlation_id"])  # one may come twice
    message.channel.basic_ack(message.delivery_tag)
    print(count - len(waiting), flush=True)


def listen(deadline):
    while waiting and (patience := deadline - time.monotonic()) > 0:
        with contextlib.suppress(TimeoutError):
            connection.drain_events(timeout=patience)


connection = amqp.Connection("localhost", confirm_publish=True)
connection.connect()
channel = connection.channel()
for queue in ("taskqueue", "results"):
    channel.queue_declare(queue, durable=True, auto_delete=False)
channel.basic_consume("results", callback=receive)
begin = time.monotonic()
for number in range(count):
    listen(begin + number / rate)
    workitem = {
        "type": "digest",
        "content_type": "text/plain",
        "correlation_id": str(number),
        "delivery_mode": 2,
    }
    channel.basic_publish(amqp.Message(FILE, **workitem), routing_key="taskqueue", mandatory=True)
listen(time.monotonic() + LAST_TIMEOUT)
sys.exit(f"{len(waiting)} did not arrive: {sorted(waiting)[:20]}" if waiting else 0)
