"""The worker of a feed: performs chunks with the user's handle_job, as any plugin performs workitems."""

import asyncio
import inspect
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any, Final

from taskqueue.errors import WorkitemUnreadable
from taskqueue.feed.target import HANDLE_JOB, Target
from taskqueue.feed.wire import PICKLE, Codec, JsonCodec, PickleCodec, Receipt
from taskqueue.messages.content import JSON
from taskqueue.messages.workitem import Workitem
from taskqueue.plugins import OwnPlugin
from taskqueue.worker.base import BaseWorker

#: The plugin of a feed's workers.
PLUGIN: Final = OwnPlugin("feed", f"{__name__}:ChunkWorker.factory", "taskqueue", "")


@dataclass(frozen=True, slots=True)
class ChunkWorkerSettings:
    """The settings of a feed's workers, passed as options of their group."""

    target: str
    directory: str  # the current directory of the command
    threads: str = "1"  # number of jobs that a worker performs at a time
    key: str = ""  # hexadecimal, for signed pickles; "" if those are refused

    def settings(self) -> tuple[tuple[str, str], ...]:
        """Return the settings as pairs of name and value."""
        return tuple(asdict(self).items())


class ChunkWorker(BaseWorker):
    """Performs chunks; returns a receipt for each."""

    ACCEPT = [JSON, PICKLE]  # noqa: RUF012 -- BaseWorker says of what kind it is

    def setup(self) -> None:
        """Load the user's code."""
        options = ChunkWorkerSettings(**self.settings)
        os.chdir(options.directory)
        handle = Target.parse(options.target, HANDLE_JOB).load()
        self._key = bytes.fromhex(options.key)
        self._threads = int(options.threads)
        self._perform = _performer(handle, self._threads)

    def handle_task(self, body: Any) -> Any:
        """Perform the jobs of a chunk; a failed job does not affect the others."""
        receipt = Receipt(self._threads)
        jobs = body if isinstance(body, list) else self._codec(self.workitem).decode(self.workitem.body)
        self._perform(jobs, receipt)
        return receipt.plain()

    def _codec(self, workitem: Workitem) -> Codec:
        if workitem.content_type != PICKLE:
            return JsonCodec()
        if not self._key:
            raise WorkitemUnreadable(
                "the jobs are pickled: start the workers with --pickle and the feeder's key"
            )
        return PickleCodec(self._key, workitem.worker_type)


_Perform = Callable[[list[Any], Receipt], None]


def _performer(handle: Callable[[Any], Any], threads: int) -> _Perform:
    """Return a function that performs a chunk with `threads` jobs at a time."""
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
    """Let each thread take one job after the other; `next` of an enumeration is atomic."""
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
    """Raise TypeError for a coroutine: a plain function returned it, so that its job has not run."""
    if inspect.iscoroutine(result):
        result.close()
        raise TypeError("handle_job returned a coroutine: it must be declared by async def itself")


def _without_our_frame(error: BaseException) -> BaseException:
    """Drop our own frame from a traceback, which should begin in the user's code."""
    inner = error.__traceback__.tb_next if error.__traceback__ else None
    return error.with_traceback(inner) if inner else error
