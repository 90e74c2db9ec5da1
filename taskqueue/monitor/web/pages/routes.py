"""The pages' paths, and what Tornado must know to make them."""

from typing import Any, Final

from tornado.httputil import HTTPServerRequest
from tornado.routing import Matcher

from taskqueue.monitor.web.handler import pattern
from taskqueue.monitor.web.pages import static
from taskqueue.monitor.web.pages.account import AccountPage
from taskqueue.monitor.web.pages.acting import Act
from taskqueue.monitor.web.pages.audit import Audit, AuditFile
from taskqueue.monitor.web.pages.bodies import EditedRetry, WorkitemBody, WorkitemMessage
from taskqueue.monitor.web.pages.broker import Broker
from taskqueue.monitor.web.pages.dead_letters import DeadLetters
from taskqueue.monitor.web.pages.finding import Find, Suggest
from taskqueue.monitor.web.pages.hosts import Hosts
from taskqueue.monitor.web.pages.live import (
    NOTICES,
    LiveNotices,
    LiveOverview,
    LiveRunning,
    LiveWorkflow,
    LiveWorkitem,
)
from taskqueue.monitor.web.pages.logging_in import LogIn, LogOut
from taskqueue.monitor.web.pages.metrics import Metrics
from taskqueue.monitor.web.pages.overview import Overview
from taskqueue.monitor.web.pages.page import LOGIN, SESSION_COOKIE, NotFound, Page
from taskqueue.monitor.web.pages.pools import Pools
from taskqueue.monitor.web.pages.running import Running
from taskqueue.monitor.web.pages.schedules import SchedulePage, Schedules
from taskqueue.monitor.web.pages.types import Types
from taskqueue.monitor.web.pages.workflows import WorkflowPage, Workflows
from taskqueue.monitor.web.pages.workitem import WorkitemLog, WorkitemPage, WorkitemResult
from taskqueue.monitor.web.pages.workitems import Workitems
from taskqueue.monitor.web.service import Service

_LIVE: Final[tuple[tuple[str, type[Page]], ...]] = (
    (NOTICES, LiveNotices),
    ("/live/overview", LiveOverview),
    ("/live/running", LiveRunning),
    ("/live/workitems/{id}", LiveWorkitem),
    ("/live/workflows/{id}", LiveWorkflow),
)


def routes(service: Service) -> list[Any]:
    """Return the paths and their handlers, as Tornado takes them."""
    pages: tuple[tuple[str, type[Page]], ...] = (
        (LOGIN, LogIn),
        ("/logout", LogOut),
        ("/", Overview),
        ("/hosts", Hosts),
        ("/broker", Broker),
        ("/charts", Metrics),
        ("/audit", Audit),
        ("/audit.csv", AuditFile),
        ("/find", Find),
        ("/suggest", Suggest),
        ("/types", Types),
        ("/workitems", Workitems),
        ("/workitems/{id}", WorkitemPage),
        ("/workitems/{id}/log", WorkitemLog),
        ("/workitems/{id}/result", WorkitemResult),
        ("/workitems/{id}/body", WorkitemBody),
        ("/workitems/{id}/message", WorkitemMessage),
        ("/workitems/{id}/edit", EditedRetry),
        ("/schedules", Schedules),
        ("/schedules/{name}", SchedulePage),
        ("/pools", Pools),
        ("/workflows", Workflows),
        ("/workflows/{id}", WorkflowPage),
        ("/actions", Act),
        ("/account", AccountPage),
        ("/running", Running),
        ("/dead-letters", DeadLetters),
        *_LIVE,
    )
    found: list[Any] = [(pattern(path), handler, {"service": service}) for path, handler in pages]
    return [
        *found,
        (static.PATTERN, static.Static, {"service": service}),
        (_IsBrowser(), NotFound, {"service": service}),
    ]


class _IsBrowser(Matcher):
    """Matches a request that accepts HTML or has a session's cookie; programs get their errors in JSON."""

    def match(self, request: HTTPServerRequest) -> dict[str, Any] | None:
        """Return no arguments if it matches."""
        is_browser = "text/html" in request.headers.get("Accept", "").lower()
        return {} if is_browser or SESSION_COOKIE in request.cookies else None


def settings(*, is_secure: bool) -> dict[str, Any]:
    """Return the settings of the application.

    is_secure -- whether cookies are for HTTPS alone
    """
    cookies = {"httponly": True, "samesite": "Lax", "secure": is_secure, "path": "/"}
    return {
        "template_path": str(static.TEMPLATES),
        "cookies": cookies,
        "xsrf_cookie_kwargs": cookies,
    }
