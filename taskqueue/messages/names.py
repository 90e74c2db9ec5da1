"""The names of the headers that taskqueue sets (docs/protocol.md), and of RabbitMQ's direct reply-to."""

from typing import Final

#: RabbitMQ's direct reply-to (https://www.rabbitmq.com/docs/direct-reply-to): the prefix of a reply_to whose
#: reply goes to the requester's connection.
DIRECT_REPLY: Final = "amq.rabbitmq.reply-to"

HEADER: Final = "x-taskqueue-"

#: The status of the answer to a duplicate of a workitem, and the notification of it.
DUPLICATE: Final = "duplicate"

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
TENANT: Final = HEADER + "tenant"
LABELS: Final = HEADER + "labels"
UNIQUE: Final = HEADER + "unique"
UNIQUE_FOR: Final = HEADER + "unique-for"
DEBOUNCE: Final = HEADER + "debounce"
DEBOUNCED: Final = HEADER + "debounced"
DUPLICATE_OF: Final = HEADER + "duplicate-of"
#: The token of a unique workitem's claim, set by its dispatcher: only an end with it frees the key.
CLAIM: Final = HEADER + "claim"
SCHEDULE: Final = HEADER + "schedule"
TICK: Final = HEADER + "tick"
COMPLETION: Final = HEADER + "completion"
REASON: Final = HEADER + "reason"
QUEUE: Final = HEADER + "queue"
ORIGINAL: Final = HEADER + "original"
REPLY_TO: Final = HEADER + "reply-to"
#: Of a step of a workflow: the workflow's id, the step's name, the number of its run, and the proof that its
#: receipt must have.
WORKFLOW: Final = HEADER + "workflow"
STEP: Final = HEADER + "step"
RUN: Final = HEADER + "run"
PROOF: Final = HEADER + "proof"
#: The remaining steps of a chain.
CHAIN: Final = HEADER + "chain"
