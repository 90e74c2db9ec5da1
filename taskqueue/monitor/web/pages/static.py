"""The pages' style, script and icon, read once. Their addresses have a digest, so that browsers keep them."""

import hashlib
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Final

from taskqueue.monitor.web.handler import Handler

#: Where templates and static files are. Packages are installed as files, not as archives.
_HERE: Final = Path(str(files("taskqueue.monitor.web.pages")))
TEMPLATES: Final = _HERE / "templates"
_TYPES: Final = {
    "style.css": "text/css; charset=UTF-8",
    "script.js": "text/javascript; charset=UTF-8",
    "icon.svg": "image/svg+xml",
}
_KEPT: Final = 365 * 86400  # seconds


@dataclass(frozen=True, slots=True)
class StaticFile:
    """A file as it is served."""

    content: bytes
    content_type: str
    address: str


def _load(name: str) -> StaticFile:
    content = (_HERE / "static" / name).read_bytes()
    digest = hashlib.sha256(content).hexdigest()[:16]
    return StaticFile(content, _TYPES[name], f"/static/{digest}/{name}")


FILES: Final = {name: _load(name) for name in _TYPES}
#: Addresses that are served; with the digest of another version, too: a page may be older than the process.
PATTERN: Final = r"/static/[0-9a-f]{16}/(" + "|".join(name.replace(".", r"\.") for name in _TYPES) + ")$"


class Static(Handler):
    """Answers with a static file."""

    @property
    def needs_login(self) -> bool:
        """No: the login's page has them, and they are in the package for everybody."""
        return False

    def get(self, name: str) -> None:
        """Answer."""
        found = FILES[name]
        self.set_header("Content-Type", found.content_type)
        is_current = self.request.path == found.address
        self.set_header("Cache-Control", f"max-age={_KEPT}, immutable" if is_current else "no-store")
        self.finish(found.content)
