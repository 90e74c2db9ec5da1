"""A line between a client and the broker that a test can cut."""

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from typing import Protocol, Self, TypeVar
from urllib.parse import urlsplit

T = TypeVar("T")

PATIENCE = 30  # seconds until a call has had its effect

# Closing a socket with this option set sends RST instead of FIN (socket(7), SO_LINGER).
RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Listener(Protocol):
    """Hears what passes over one connection."""

    def __call__(self, is_from_client: bool, data: bytes) -> bytes:  # noqa: FBT001
        """Take in what passes; what it returns, perhaps a message's end, is put before what comes next."""

    def close(self) -> None:
        """Take in that the connection has ended."""


class Proxy:
    """Forwards TCP connections to the broker of `url`; `self.url` leads through it.

    Everything happens on an event loop in a thread of its own, so each call has had its effect when it
    returns.
    """

    def __init__(self, url: str, tap: Callable[[], Listener] | None = None) -> None:
        """Begin to forward; `tap` returns who hears a connection."""
        parts = urlsplit(url)
        self.tap = tap
        self.target = (parts.hostname, parts.port)
        self.stalled = False
        self.accepted = 0  # clients that ever connected
        self.ends: set[_End] = set()
        self._server: asyncio.Server | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()
        self.port = 0
        self.accept()
        self.url = url.replace(f":{parts.port}/", f":{self.port}/")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def connections(self) -> int:
        """The number of clients that are connected now."""
        return self._call(lambda: sum(1 for end in self.ends if end.is_client))

    def cut(self) -> None:
        """Reset every connection, on both sides; new ones are still accepted."""
        self._call(lambda: [end.reset() for end in list(self.ends)])

    def refuse(self) -> None:
        """Refuse new connections; those that exist are left alone."""
        if self._server is not None:
            asyncio.run_coroutine_threadsafe(self._stop_serving(self._server), self._loop).result(PATIENCE)
            self._server = None

    def accept(self) -> None:
        """Accept new connections again, on the same port."""
        if self._server is None:
            listening = self._loop.create_server(lambda: _End(self), "127.0.0.1", self.port)
            self._server = asyncio.run_coroutine_threadsafe(listening, self._loop).result(PATIENCE)
            self.port = self._server.sockets[0].getsockname()[1]

    def stall(self) -> None:
        """Let nothing through any more, not even a connection's end; new ones are accepted."""
        self._call(lambda: setattr(self, "stalled", True))

    def resume(self) -> None:
        """Let everything through again, beginning with what was held back."""
        self._call(self._resume)

    def close(self) -> None:
        """Refuse, cut and end the thread."""
        self.refuse()
        asyncio.run_coroutine_threadsafe(self._end_all(), self._loop).result(PATIENCE)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _stop_serving(self, server: asyncio.Server) -> None:
        """Close a server that has taken all that it has accepted.

        A closed one refuses to take a connection, and leaves it open.
        """
        for each in server.sockets:
            self._loop.remove_reader(each.fileno())
        await asyncio.sleep(0)
        server.close()
        await asyncio.sleep(0)

    async def _end_all(self) -> None:
        """Cut every connection, also those that are being accepted, or connected to the broker."""
        while self.ends or asyncio.all_tasks() - {asyncio.current_task()}:
            for end in list(self.ends):
                end.reset()
            await asyncio.sleep(0)

    def _resume(self) -> None:
        self.stalled = False
        for end in list(self.ends):
            end.forward()
            if end.other is not None:
                end.other.forward()  # it may be lost, and so no longer among the ends

    def _call(self, function: Callable[[], T]) -> T:
        """Call `function` on the loop, and let the loop act upon it before returning."""

        async def call() -> T:
            value = function()
            await asyncio.sleep(0)
            return value

        return asyncio.run_coroutine_threadsafe(call(), self._loop).result(PATIENCE)


class _End(asyncio.Protocol):
    """One end of a forwarded connection; a client's connects to the broker and makes the other."""

    def __init__(self, proxy: Proxy, other: Self | None = None) -> None:
        self.proxy = proxy
        self.other = other
        self.is_client = other is None
        self.listener: Listener | None = other.listener if other else proxy.tap and proxy.tap()
        self.held: list[bytes] = []
        self.untold = b""
        self.lost = False
        self.transport: asyncio.Transport
        self.connecting: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        self.proxy.ends.add(self)
        if self.is_client:
            self.proxy.accepted += 1
            self.connecting = asyncio.ensure_future(self._connect())

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            _, self.other = await loop.create_connection(lambda: _End(self.proxy, self), *self.proxy.target)
        except OSError:
            self.reset()
        self.forward()

    def data_received(self, data: bytes) -> None:
        if self.listener is not None:
            self.untold = self.listener(self.is_client, self.untold + data)
        self.held.append(data)
        self.forward()

    def connection_lost(self, _error: Exception | None) -> None:
        self.lost = True
        self.proxy.ends.discard(self)
        if self.listener is not None:
            self.listener.close()
        self.forward()

    def forward(self) -> None:
        """Pass on what came, and the end of it, unless the line is stalled or not there yet."""
        if self.other is None or self.proxy.stalled:
            return
        for data in self.held:
            if not self.other.transport.is_closing():
                self.other.transport.write(data)
        self.held.clear()
        if self.lost:
            self.other.transport.close()

    def reset(self) -> None:
        with contextlib.suppress(OSError):  # closed by the other side already
            connection = self.transport.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        self.transport.abort()
