"""Runs on a machine with the packages, with Debian's python3-amqp: a producer that counts what comes back.

``load.py RATE ENOUGH`` submits workitems to this machine's broker, RATE a second, until a file ENOUGH exists,
and reads the results. It says in a line each what has arrived, from which host and group, and ends with
status 0 when all have, and are right.
"""

import contextlib
import hashlib
import itertools
import json
import sys
import time
from pathlib import Path

import amqp

FILE = "/usr/share/common-licenses/GPL-3"
LAST_TIMEOUT = 90.0  # seconds from the last submission to the last result

rate, enough = float(sys.argv[1]), Path(sys.argv[2])
digest = hashlib.sha256(Path(FILE).read_bytes()).hexdigest()
waiting = set()


def receive(message):
    assert json.loads(message.body)["sha256"] == digest, message.body
    number = message.properties["correlation_id"]
    if number in waiting:  # one may come twice
        waiting.remove(number)
        headers = message.headers
        group = headers["x-taskqueue-worker"].partition("/")[0]
        print(number, headers["x-taskqueue-host"], group, flush=True)
    message.channel.basic_ack(message.delivery_tag)


def listen(deadline, *, until_all=False):
    while (waiting or not until_all) and (patience := deadline - time.monotonic()) > 0:
        with contextlib.suppress(TimeoutError):
            connection.drain_events(timeout=patience)


connection = amqp.Connection("localhost", confirm_publish=True)
connection.connect()
channel = connection.channel()
for queue in ("taskqueue", "results"):
    channel.queue_declare(queue, durable=True, auto_delete=False)
channel.basic_consume("results", callback=receive)
begin = time.monotonic()
for number in itertools.takewhile(lambda _: not enough.exists(), itertools.count()):
    listen(begin + number / rate)
    waiting.add(str(number))
    workitem = {
        "type": "digest",
        "content_type": "text/plain",
        "correlation_id": str(number),
        "delivery_mode": 2,
    }
    channel.basic_publish(amqp.Message(FILE, **workitem), routing_key="taskqueue", mandatory=True)
listen(time.monotonic() + LAST_TIMEOUT, until_all=True)
sys.exit(f"{len(waiting)} did not arrive: {sorted(waiting)[:20]}" if waiting else 0)
