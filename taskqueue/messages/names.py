"""The names of the headers that taskqueue sets (docs/protocol.md), and of RabbitMQ's direct reply-to."""

from typing import Final

#: RabbitMQ's direct reply-to (https://www.rabbitmq.com/docs/direct-reply-to): what reply_to begins with where
#: the reply comes over the connection that asked.
DIRECT_REPLY: Final = "amq.rabbitmq.reply-to"

HEADER: Final = "x-taskqueue-"
STATUS: Final = HEADER + "status"
WORKITEM_ID: Final = HEADER + "workitem"
ATTEMPT: Final = HEADER + "attempt"
CRASHES: Final = HEADER + "crashes"
FAILURES: Final = HEADER + "failures"
HISTORY: Final = HEADER + "history"
DUE: Final = HEADER + "due"
WAIT: Final = HEADER + "wait"
DEADLINE: Final = HEADER + "deadline"
PUBLISHER: Final = HEADER + "user"
HOST: Final = HEADER + "host"
WORKER: Final = HEADER + "worker"
STARTED: Final = HEADER + "started"
ENDED: Final = HEADER + "ended"
POSSIBLY_DOUBLED: Final = HEADER + "possibly-doubled"
LEASE: Final = HEADER + "lease"
NOTIFY: Final = HEADER + "notify"
REASON: Final = HEADER + "reason"
QUEUE: Final = HEADER + "queue"
ORIGINAL: Final = HEADER + "original"
REPLY_TO: Final = HEADER + "reply-to"
