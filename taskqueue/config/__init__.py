"""config.ini: read, checked against configspec.ini, and handed on as frozen settings."""

from taskqueue.config.amqp import ANYBODY as ANYBODY
from taskqueue.config.amqp import AmqpSettings as AmqpSettings
from taskqueue.config.checks import Fault as Fault
from taskqueue.config.groups import UnixUsers as UnixUsers
from taskqueue.config.loading import load as load
from taskqueue.config.loading import load_amqp as load_amqp
from taskqueue.config.settings import DispatcherSettings as DispatcherSettings
from taskqueue.config.settings import FlowSettings as FlowSettings
from taskqueue.config.settings import GroupSettings as GroupSettings
from taskqueue.config.settings import LoggingSettings as LoggingSettings
from taskqueue.config.settings import MonitorSettings as MonitorSettings
from taskqueue.config.settings import PoolSettings as PoolSettings
from taskqueue.config.settings import RecordSettings as RecordSettings
from taskqueue.config.settings import Settings as Settings
from taskqueue.config.settings import effective as effective
