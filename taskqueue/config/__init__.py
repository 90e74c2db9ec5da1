"""config.ini: read, checked against configspec.ini, and handed on as frozen settings."""

from taskqueue.config.amqp import AmqpSettings
from taskqueue.config.checks import Fault
from taskqueue.config.loading import load, load_amqp
from taskqueue.config.reference import reference
from taskqueue.config.settings import (
    DispatcherSettings,
    GroupSettings,
    LoggingSettings,
    PoolSettings,
    Settings,
    effective,
)
from taskqueue.config.users import UnixUsers

__all__ = [
    "AmqpSettings",
    "DispatcherSettings",
    "Fault",
    "GroupSettings",
    "LoggingSettings",
    "PoolSettings",
    "Settings",
    "UnixUsers",
    "effective",
    "load",
    "load_amqp",
    "reference",
]
