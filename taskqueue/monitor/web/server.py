"""The web process of the monitor: the HTTP API over a record that it only reads."""

import asyncio
import logging
import resource
import signal
import socket
import ssl
from http import HTTPStatus
from typing import Any, Final

from tornado.httpserver import HTTPServer
from tornado.iostream import IOStream
from tornado.web import Application

from taskqueue.errors import ExitStatus
from taskqueue.monitor import place
from taskqueue.monitor.web import endpoints
from taskqueue.monitor.web.clients import network
from taskqueue.monitor.web.endpoints import Nothing
from taskqueue.monitor.web.handler import Handler
from taskqueue.monitor.web.listening import listen
from taskqueue.monitor.web.pages import routes as pages
from taskqueue.monitor.web.service import Service, WebSettings
from taskqueue.process import children
from taskqueue.process.daemon import notify
from taskqueue.process.logs import Log

_LARGEST_HEADER: Final = 32 * 1024  # bytes of a request's first line and headers
_LARGEST_BODY: Final = 2 * 1024 * 1024  # bytes
_MOST_CONNECTIONS: Final = 500
_MOST_FILES: Final = 4096  # open ones: connections, and the record's in each thread that reads it
_MOST_OF_CLIENT: Final = 100  # connections of one address, so that others are left
_MOST_OF_PROXY: Final = 200
_IDLE: Final = 60.0  # seconds that a connection may be idle, or take to send its headers
_BODY_TIMEOUT: Final = 30.0
_SEND_TIMEOUT: Final = 30.0  # seconds for which a client may accept nothing of an answer
_STOP_TIMEOUT: Final = 5.0
_log = Log("monitor")


def serve(
    settings: WebSettings,
    sockets: list[socket.socket] | None = None,
    tls: ssl.SSLContext | None = None,
    proxy: socket.socket | None = None,
) -> ExitStatus:
    """Serve until SIGTERM or SIGINT. Raises CannotListen.

    Args:
        settings: what to serve, and where.
        sockets: of `listen`; None to listen where the settings say.
        tls: the certificate and key; None for HTTP.
        proxy: of `listen_for_proxy`; None for none.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    children.allow_open_files(_MOST_FILES if hard == resource.RLIM_INFINITY else min(_MOST_FILES, hard))
    return asyncio.run(_serve(settings, sockets or listen(settings.host, settings.port), tls, proxy))


async def _serve(
    settings: WebSettings,
    sockets: list[socket.socket],
    tls: ssl.SSLContext | None,
    proxy: socket.socket | None,
) -> ExitStatus:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, lambda: None)  # the users are read again whenever they change
    children.let_signals_in()
    logging.getLogger("tornado").setLevel(logging.ERROR)  # what clients send is no fault of ours
    service = Service(settings)
    servers = [_server(application(service, is_secure=tls is not None), sockets, tls)]
    if proxy is not None:
        servers.append(_server(application(service, settings.proxy_header), [proxy], None))
    where = _address(sockets[0], "https" if tls else "http")
    _log.info("serves at %s", where)
    notify(f"READY=1\nSTATUS=serves at {where}")
    await stop.wait()
    for server in servers:
        server.stop()
    service.hub.close()
    closing = asyncio.gather(*(server.close_all_connections() for server in servers))
    try:
        await asyncio.wait_for(closing, _STOP_TIMEOUT)
    except TimeoutError:
        _log.warning("some connections did not end in time")
    service.close()
    return ExitStatus.OK


def _server(application: Application, sockets: list[socket.socket], tls: ssl.SSLContext | None) -> "_Server":
    server = _Server(
        application,
        ssl_options=tls,
        max_header_size=_LARGEST_HEADER,
        max_body_size=_LARGEST_BODY,
        idle_connection_timeout=_IDLE,
        body_timeout=_BODY_TIMEOUT,
    )
    server.add_sockets(sockets)
    return server


def _address(sock: socket.socket, scheme: str) -> str:
    host, port, *_ = sock.getsockname()
    return place.url(scheme, host, port)


class _Server(HTTPServer):
    """Closes connections beyond a number, so that open files are left for the record, and for other clients.

    The kernel ends those whose client reads nothing (tcp(7), TCP_USER_TIMEOUT): Tornado would wait for ever.
    The proxy at the Unix socket is trusted to read.
    """

    def initialize(self, *args: Any, **kwargs: Any) -> None:
        """Make the server; Tornado calls this in the place of the constructor."""
        super().initialize(*args, **kwargs)
        self._clients: dict[IOStream, str] = {}  # the addresses of open connections

    def handle_stream(self, stream: IOStream, address: tuple[Any, ...]) -> None:
        """Serve a connection, or close it."""
        self._clients = {each: its for each, its in self._clients.items() if not each.closed()}
        is_proxy = stream.socket.family == socket.AF_UNIX
        client = "" if is_proxy else network(address[0])
        is_too_many = len(self._clients) >= (_MOST_OF_PROXY if is_proxy else _MOST_CONNECTIONS)
        of_client = sum(its == client for its in self._clients.values())
        if is_too_many or (not is_proxy and of_client >= _MOST_OF_CLIENT):
            stream.close()
            return
        self._clients[stream] = client
        if not is_proxy:
            milliseconds = int(_SEND_TIMEOUT * 1000)
            stream.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)
        super().handle_stream(stream, address)


def application(service: Service, proxy_header: str | None = None, *, is_secure: bool = False) -> Application:
    """Return the paths and their handlers.

    Args:
        service: what the handlers share.
        proxy_header: the header that names the user, if every client is the trusted proxy.
        is_secure: whether clients speak HTTPS.
    """
    return Application(
        [*endpoints.routes(service), *pages.routes(service)],
        default_handler_class=Nothing,
        default_handler_args={"service": service},
        log_function=_log_request,
        proxy_header=proxy_header,
        **pages.settings(is_secure=is_secure),
    )


def _log_request(handler: Handler) -> None:
    status, request = handler.get_status(), handler.request
    level = logging.ERROR if status >= HTTPStatus.INTERNAL_SERVER_ERROR else logging.DEBUG
    _log.log(level, "%s %s from %s: status %d", request.method, request.path, handler.client, status)
