"""Requests to read the body of a failed or rejected workitem, and to retry it with another one."""

import base64
import binascii
import hashlib
import json
from dataclasses import dataclass
from typing import Any, Final, Self

from taskqueue.monitor.web import parameters
from taskqueue.monitor.web.parameters import BadRequest

READ, EDIT = "read body", "retry with another body"
BODY_ACTIONS: Final = (READ, EDIT)
#: Bytes of a body that is edited here: it is in a page.
LARGEST_BODY: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class BodyRequest:
    """A request that is about the body of a workitem.

    Args:
        action: READ or EDIT.
        id: the workitem.
        tenant: whose it is; None for the newest of the id.
        body: the other body, for EDIT.
    """

    action: str
    id: str
    tenant: str | None = None
    body: bytes = b""

    @property
    def dry_run(self) -> bool:
        """Whether nothing changes, so that the audit has nothing to tell."""
        return self.action == READ

    @property
    def about(self) -> str:
        """The entry of the audit, as JSON; size and digest stand for the body."""
        digest = hashlib.sha256(self.body).hexdigest()
        return json.dumps({"ids": [self.id], "body": {"size": len(self.body), "sha256": digest}})

    def plain(self) -> dict[str, Any]:
        """Return the members of the request's JSON."""
        return {"id": self.id, "tenant": self.tenant, "body": base64.b64encode(self.body).decode()}

    @classmethod
    def of(cls, action: str, content: dict[str, Any]) -> Self:
        """Return the request of its JSON. Raises BadRequest."""
        id_, tenant, body = (content.get(name) for name in ("id", "tenant", "body"))
        (id_,) = parameters.ids_of_json([id_])
        if not (tenant is None or isinstance(tenant, str)):
            raise BadRequest("tenant: expected a text")
        try:
            decoded = base64.b64decode(body if isinstance(body, str) else "?", validate=True)
        except binascii.Error:
            raise BadRequest("body: expected Base64") from None
        check_size(decoded)
        return cls(action, id_, tenant, decoded)


@dataclass(frozen=True, slots=True)
class BodyAnswer:
    """The answer to a request about a body.

    Args:
        count: the number of workitems.
        body: the body that was asked for; empty with EDIT.
        content_type: its media type; "" if it has none.
        fields: names and values of the message's properties and headers.
    """

    count: int
    body: bytes
    content_type: str
    fields: tuple[tuple[str, str], ...] = ()


def check_size(body: bytes) -> None:
    """Raise BadRequest for a body that is too large."""
    if len(body) > LARGEST_BODY:
        found = f"body: expected at most {LARGEST_BODY} bytes, found {len(body)}"
        raise BadRequest(f"{found}; `taskqueue failed show ID` has it whole")
