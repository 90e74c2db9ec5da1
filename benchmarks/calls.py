"""Round trips of calls beside those of a bare pika relay, and many calls out at once.

usage: python benchmarks/calls.py [calls]
Starts a private RabbitMQ, a dispatcher and `python -m taskqueue.node` of its own; nothing else should run. A
bare round trip is one message to a relay, from there to an answerer, and back by direct reply-to: what a
dispatcher and a worker do at least.
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from taskqueue import AsyncClient, BrokerUnavailable, Client, UnknownTask
from taskqueue.broker.private import PrivateBroker

WARM_UP = 50
OUTSTANDING = 10_000

BARE = """
import pika, sys, time
queue = sys.argv[2]
def relay(channel, method, properties, body):
    channel.basic_publish("", "bare_answer", body, properties)
    channel.basic_ack(method.delivery_tag)
def answer(channel, method, properties, body):
    channel.basic_publish("", properties.reply_to, body, properties)
    channel.basic_ack(method.delivery_tag)
def opened(channel):
    channel.queue_declare(queue, durable=True)
    channel.basic_consume(queue, {"bare_relay": relay, "bare_answer": answer}[queue])
def call(number):
    connection = pika.BlockingConnection(pika.URLParameters(sys.argv[1]))
    channel, replies, times = connection.channel(), [], []
    channel.basic_consume("amq.rabbitmq.reply-to", lambda *reply: replies.append(reply), auto_ack=True)
    properties = pika.BasicProperties(reply_to="amq.rabbitmq.reply-to", delivery_mode=2)
    for _ in range(number):
        begun = time.perf_counter()
        replies.clear()
        channel.basic_publish("", "bare_relay", b'{"params":[5,6]}', properties)
        while not replies:
            connection.process_data_events(1)
        times.append(time.perf_counter() - begun)
    print(times)
if queue.isdigit():
    call(int(queue))
else:
    parameters = pika.URLParameters(sys.argv[1])
    connect = lambda connection: connection.channel(on_open_callback=opened)
    pika.SelectConnection(parameters, on_open_callback=connect).ioloop.start()
"""


def start(url: str, *command: str) -> "subprocess.Popen[bytes]":
    environment = os.environ | {"TASKQUEUE_AMQP": url}
    return subprocess.Popen([sys.executable, *command], env=environment, stderr=subprocess.DEVNULL)


def wait_for(call: Callable[[], Any]) -> None:
    """Wait until somebody serves."""
    while True:
        try:
            call()
        except (UnknownTask, BrokerUnavailable):
            time.sleep(0.2)
        else:
            return


def round_trips(call: Callable[[], Any], number: int) -> list[float]:
    times = []
    for _ in range(number):
        begun = time.perf_counter()
        call()
        times.append(time.perf_counter() - begun)
    return times


def bare(url: str, number: int) -> list[float]:
    done = subprocess.run([sys.executable, "-c", BARE, url, str(number)], check=True, capture_output=True)
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def outstanding(url: str) -> None:
    with AsyncClient(url) as client:
        for _ in range(3):
            begun = time.perf_counter()
            calls = [client.add(number, 1) for number in range(OUTSTANDING)]
            assert [call.result(120) for call in calls] == list(range(1, OUTSTANDING + 1))  # noqa: S101
            rate = OUTSTANDING / (time.perf_counter() - begun)
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            print(f"{OUTSTANDING} calls out: {rate:.0f}/s, peak memory {peak:.0f} MiB")


def show(name: str, times: list[float]) -> float:
    times = sorted(times[WARM_UP:])
    median = statistics.median(times) * 1000
    print(f"{name:8} median {median:.2f} ms, p99 {times[int(len(times) * 0.99)] * 1000:.2f} ms")
    return median


def main() -> None:
    """Run everything; print the figures."""
    number = WARM_UP + int(sys.argv[1] if len(sys.argv) > 1 else 500)
    with (
        tempfile.TemporaryDirectory() as directory,
        PrivateBroker(Path(directory), keep_data=False) as broker,
    ):
        url = broker.url
        started = [start(url, "-c", BARE, url, queue) for queue in ("bare_relay", "bare_answer")]
        started += [start(url, "-m", "taskqueue", "dispatcher", "-f")]
        started += [start(url, "-m", "taskqueue.node", "-n", "2")]
        try:
            with Client(url) as client:
                wait_for(lambda: client.add(5, 6))
                limit = show("bare", bare(url, number))
                ours = show("call", round_trips(lambda: client.add(5, 6), number))
                print(f"a call takes {ours / limit:.2f} times as long")
            outstanding(url)
        finally:
            for each in reversed(started):
                each.terminate()
            for each in started:
                each.wait()


if __name__ == "__main__":
    main()
