"""The worker of a feed: performs chunks with the user's handle_job, as any plugin performs workitems."""

import asyncio
import inspect
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from typing import Any, Final

from taskqueue.errors import WorkitemUnreadable
from taskqueue.feed.codec import PICKLE, Codec, JsonCodec, PickleCodec
from taskqueue.feed.receipt import Receipt
from taskqueue.feed.target import HANDLE_JOB, Target
from taskqueue.messages.content import JSON
from taskqueue.messages.workitem import Workitem
from taskqueue.plugins import OwnPlugin
from taskqueue.worker.base import BaseWorker

#: What a group of these workers is made after.
PLUGIN: Final = OwnPlugin("feed", f"{__name__}:ChunkWorker.factory", "taskqueue", "")


@dataclass(frozen=True, slots=True)
class Orders:
    """What a feed's workers are told; they travel as a group's own settings."""

    target: str
    directory: str  # where the command was given
    threads: str = "1"  # how many jobs each worker performs at a time
    key: str = ""  # hexadecimal; of signed pickles, where those are taken

    def settings(self) -> tuple[tuple[str, str], ...]:
        """Return them as settings."""
        return tuple((field.name, getattr(self, field.name)) for field in fields(self))


class ChunkWorker(BaseWorker):
    """Performs chunks; returns a receipt for each."""

    ACCEPT = [JSON, PICKLE]  # noqa: RUF012 -- BaseWorker says of what kind it is

    def setup(self) -> None:
        """Load the user's code."""
        orders = Orders(**self.settings)
        os.chdir(orders.directory)
        handle = Target.parse(orders.target, HANDLE_JOB).load()
        self._key = bytes.fromhex(orders.key)
        self._threads = int(orders.threads)
        self._perform = _performer(handle, self._threads)

    def handle_task(self, body: Any) -> Any:
        """Perform the jobs of a chunk, each whatever becomes of the others."""
        receipt = Receipt(self._threads)
        jobs = body if isinstance(body, list) else self._codec(self.workitem).decode(self.workitem.body)
        self._perform(jobs, receipt)
        return receipt.plain()

    def _codec(self, workitem: Workitem) -> Codec:
        if workitem.content_type != PICKLE:
            return JsonCodec()
        if not self._key:
            raise WorkitemUnreadable(
                "pickled jobs: these workers take them only with --pickle and the feeder's key"
            )
        return PickleCodec(self._key, workitem.worker_type)


_Perform = Callable[[list[Any], Receipt], None]


def _performer(handle: Callable[[Any], Any], threads: int) -> _Perform:
    """Return how a chunk is performed with this function and so many jobs at a time."""
    if inspect.iscoroutinefunction(handle):
        runner = asyncio.Runner()
        return lambda jobs, receipt: runner.run(_concurrently(handle, threads, jobs, receipt))
    if threads > 1:
        pool = ThreadPoolExecutor(threads, "job")
        return lambda jobs, receipt: _in_threads(handle, pool, threads, jobs, receipt)
    return lambda jobs, receipt: _handle_all(handle, enumerate(jobs), receipt)


def _handle_all(handle: Callable[[Any], Any], jobs: Iterator[tuple[int, Any]], receipt: Receipt) -> None:
    for position, job in jobs:
        try:
            result = handle(job)
            if result is not None:
                _refuse_coroutine(result)
        except BaseException as error:  # noqa: BLE001 -- the user's code may raise anything
            receipt.fail(position, _without_our_frame(error))


def _in_threads(
    handle: Callable[[Any], Any], pool: ThreadPoolExecutor, threads: int, jobs: list[Any], receipt: Receipt
) -> None:
    """Have threads take one job after the other; taking one is a single step of the interpreter."""
    numbered = enumerate(jobs)
    for done in [pool.submit(_handle_all, handle, numbered, receipt) for _ in range(threads)]:
        done.result()


async def _concurrently(
    handle: Callable[[Any], Any], threads: int, jobs: list[Any], receipt: Receipt
) -> None:
    numbered = enumerate(jobs)

    async def handle_some() -> None:
        for position, job in numbered:
            try:
                await handle(job)
            except BaseException as error:  # noqa: BLE001 -- the user's code may raise anything
                receipt.fail(position, _without_our_frame(error))

    await asyncio.gather(*(handle_some() for _ in range(threads)))


def _refuse_coroutine(result: Any) -> None:
    """Raise TypeError where a job was only begun: what looks like a plain function returned a coroutine."""
    if inspect.iscoroutine(result):
        result.close()
        raise TypeError("handle_job returned a coroutine: it must be declared by async def itself")


def _without_our_frame(error: BaseException) -> BaseException:
    """Drop our own frame from a traceback: users look for their own code."""
    inner = error.__traceback__.tb_next if error.__traceback__ else None
    return error.with_traceback(inner) if inner else error
