"""The peers: task queues for Python that many use, each as its documentation sets it up.

Each runs two single-threaded worker processes over tiny tasks that are already queued. A task writes one
byte into a shared file, so that the count of finished tasks is the file's size and no peer's own result
store takes part. Deliveries are acknowledged after the task, and publishing is confirmed, where a peer can.
"""

import shlex
import textwrap
from dataclasses import dataclass
from typing import Final

PROCESSES: Final = 2

_COMMON: Final = """
import os
FD = os.open(os.environ["DONE"], os.O_WRONLY | os.O_APPEND)
AMQP, REDIS = os.environ["AMQP_URL"], os.environ["REDIS_URL"]
def tick(x):
    os.write(FD, b".")
    return x
"""

#: Run in a peer's directory: `client.py submit COUNT` and `client.py call COUNT` print what they find.
CLIENT: Final = """
import json, os, sys, time
sys.path.insert(0, os.getcwd())
exec(open("submit.py").read())
mode, count = sys.argv[1], int(sys.argv[2])
if mode == "submit":
    submit(0)
    begun = time.perf_counter()
    for i in range(count - 1):
        submit(i)
    print(json.dumps({"rate": (count - 1) / (time.perf_counter() - begun)}))
else:
    for i in range(20):
        call(i)
    times = []
    for i in range(count):
        begun = time.perf_counter()
        call(i)
        times.append(time.perf_counter() - begun)
    times.sort()
    print(json.dumps({"p50": times[count // 2] * 1e3, "p99": times[int(count * 0.99)] * 1e3}))
sys.stdout.flush()
os._exit(0)
"""


@dataclass(frozen=True, slots=True)
class Peer:
    """How one peer is set up."""

    name: str
    module: str  # mod.py, which its workers load
    worker: tuple[str, ...]  # arguments of Python
    submit: str  # submit.py: defines submit(x) and perhaps call(x)
    most: int = 1_000_000  # tasks that can be measured in reasonable time

    @property
    def can_call(self) -> bool:
        """Whether a result can be waited for."""
        return "def call" in self.submit


def _peer(name: str, module: str, worker: str, submit: str, most: int = 1_000_000) -> Peer:
    command = tuple(shlex.split(worker.format(processes=PROCESSES)))
    return Peer(name, _COMMON + textwrap.dedent(module), command, textwrap.dedent(submit), most)


def celery(name: str, backend: str, prefetch: int, queue: str, submit: str) -> Peer:
    """Return Celery with a result backend, which is an expression of Python, and a prefetch of a process."""
    module = f"""
    from celery import Celery
    app = Celery("peer", broker=AMQP, backend={backend})
    app.conf.update(
        task_acks_late=True, worker_prefetch_multiplier={prefetch}, task_ignore_result={backend == "None"},
        broker_transport_options={{"confirm_publish": True}}, worker_hijack_root_logger=False,
        task_default_queue="{queue}", broker_connection_retry_on_startup=True, result_expires=60)
    @app.task(name="t")
    def t(x):
        return tick(x)
    """
    quiet = "--without-gossip --without-mingle --without-heartbeat -l ERROR"
    return _peer(name, module, f"-m celery -A mod worker -c {{processes}} {quiet}", submit)


def dramatiq(
    name: str, queue: str, submit: str, *, more: str = "", options: str = "", threads: int = 1
) -> Peer:
    """Return Dramatiq with `more` statements about its broker, and options of the actor."""
    module = f"""
    import dramatiq
    from dramatiq.brokers.rabbitmq import RabbitmqBroker
    b = RabbitmqBroker(url=AMQP, confirm_delivery=True)
    {more}
    dramatiq.set_broker(b)
    @dramatiq.actor(queue_name="{queue}"{options})
    def t(x):
        return tick(x)
    """
    return _peer(name, module, f"-m dramatiq mod -p {{processes}} -t {threads}", submit)


REDIS_RESULTS: Final = (
    "from dramatiq.results import Results; from dramatiq.results.backends import RedisBackend; "
    "b.add_middleware(Results(backend=RedisBackend(url=REDIS)))"
)
_DELAY: Final = "from mod import t\nsubmit = t.delay\n"
_SEND: Final = "from mod import t\nsubmit = t.send\n"

PEERS: Final = (
    celery("Celery", "None", 4, "peer_celery_a", _DELAY),
    celery("Celery, prefetch 100", "None", 100, "peer_celery_b", _DELAY),
    celery(
        "Celery, rpc results", '"rpc://"', 100, "peer_celery_c",
        _DELAY + "def call(x): return t.delay(x).get(timeout=30)\n",
    ),
    dramatiq("Dramatiq", "peer_dramatiq_a", _SEND),
    dramatiq("Dramatiq, 8 threads", "peer_dramatiq_b", _SEND, threads=8),
    dramatiq(
        "Dramatiq, Redis results", "peer_dramatiq_c",
        _SEND + "def call(x): return t.send(x).get_result(block=True, timeout=30000)\n",
        more=REDIS_RESULTS, options=", store_results=True",
    ),
    _peer(
        "TaskIQ, Redis results",
        """
        from taskiq_aio_pika import AioPikaBroker
        from taskiq_redis import RedisAsyncResultBackend
        results = RedisAsyncResultBackend(REDIS, result_ex_time=60)
        broker = AioPikaBroker(AMQP, queue_name="peer_taskiq", qos=100).with_result_backend(results)
        @broker.task
        async def t(x):
            return tick(x)
        """,
        "-m taskiq worker mod:broker -w {processes} --log-level ERROR",
        """
        import asyncio
        from mod import t, broker
        loop = asyncio.new_event_loop()
        loop.run_until_complete(broker.startup())
        def submit(x):
            return loop.run_until_complete(t.kiq(x))
        async def _call(x):
            task = await t.kiq(x)
            return (await task.wait_result(check_interval=0.001, timeout=30)).return_value
        def call(x):
            return loop.run_until_complete(_call(x))
        """,
    ),
    _peer(
        "Huey",
        """
        from huey import RedisHuey
        h = RedisHuey("peer", url=REDIS)
        @h.task()
        def t(x):
            return tick(x)
        """,
        "-m huey.bin.huey_consumer mod.h -w {processes} -k process -q",
        """
        from mod import t
        submit = t
        def call(x):
            return t(x)(blocking=True, timeout=30, backoff=1, max_delay=0.001)
        """,
    ),
    _peer(
        "RQ",
        """
        def t(x):
            return tick(x)
        """,
        "-m rq.cli worker-pool -n {processes} peer_rq -l ERROR -w rq.worker.SimpleWorker",
        """
        from redis import Redis
        from rq import Queue
        from mod import t
        q = Queue("peer_rq", connection=Redis.from_url(os.environ["REDIS_URL"]))
        def submit(x):
            q.enqueue(t, x)
        """,
        most=4000,
    ),
)  # fmt: skip
