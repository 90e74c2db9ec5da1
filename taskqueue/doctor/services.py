"""The services of this host: systemd units and init scripts, and which of them are in force."""

import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from taskqueue.doctor.finding import Finding, Level

DAEMONS: Final = ("dispatcher", "workerpool", "monitor")
_PREFIX: Final = "python-taskqueue-"
_PROPERTIES: Final = ("Id", "LoadState", "ActiveState", "UnitFileState", "NeedDaemonReload", "DropInPaths")
_TIMEOUT: Final = 10.0  # seconds


@dataclass(frozen=True, slots=True)
class Service:
    """A service of taskqueue on this host.

    Args:
        daemon: one of DAEMONS.
        kind: systemd unit or init script.
        is_running: whether its daemon runs.
        is_enabled: whether it starts with the machine; None if it cannot be told.
        has_failed: whether its daemon ended with an error, or is gone and has left its pid file.
        needs_reload: whether its unit has changed since systemd read it.
        drop_ins: files that change the unit.
    """

    daemon: str
    kind: str
    is_running: bool
    is_enabled: bool | None = True
    has_failed: bool = False
    needs_reload: bool = False
    drop_ins: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Its name, as `service` and `systemctl` take it."""
        return _PREFIX + self.daemon


def collect(root: Path = Path("/")) -> tuple[Service, ...]:
    """Return the installed services; root -- the directory that has /etc and /run."""
    if (root / "run/systemd/system").is_dir():
        return tuple(_units(root))
    return tuple(_init_scripts(root))


def _units(root: Path) -> Iterator[Service]:
    systemctl = shutil.which("systemctl", path=f"{root}/usr/bin:{root}/bin")
    if systemctl is None:
        return
    names = [f"{_PREFIX}{daemon}.service" for daemon in DAEMONS]
    try:
        done = subprocess.run(
            [systemctl, "show", f"--property={','.join(_PROPERTIES)}", *names],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return
    yield from units(done.stdout)


def units(shown: str) -> Iterator[Service]:
    """Yield the services of the output of `systemctl show`: properties, with an empty line between units."""
    for block in shown.strip().split("\n\n"):
        found = dict(line.partition("=")[::2] for line in block.splitlines())
        daemon = found.get("Id", "").removeprefix(_PREFIX).removesuffix(".service")
        if daemon in DAEMONS and found.get("LoadState") == "loaded":
            yield _unit(daemon, found)


def _unit(daemon: str, found: Mapping[str, str]) -> Service:
    state = found.get("ActiveState", "")
    return Service(
        daemon,
        "systemd unit",
        is_running=state in ("active", "reloading", "activating"),
        is_enabled=found.get("UnitFileState", "").startswith("enabled"),
        has_failed=state == "failed",
        needs_reload=found.get("NeedDaemonReload") == "yes",
        drop_ins=tuple(found.get("DropInPaths", "").split()),
    )


def _init_scripts(root: Path) -> Iterator[Service]:
    for daemon in DAEMONS:
        name = f"{_PREFIX}{daemon}"
        if not (root / "etc/init.d" / name).exists():
            continue
        links = any(root.glob(f"etc/rc[2345].d/S[0-9][0-9]{name}"))
        pid = _pid(root / f"run/taskqueue/{daemon}.pid")
        is_running = pid is not None and (Path("/proc") / str(pid)).exists()
        yield Service(daemon, "init script", is_running, links, has_failed=pid is not None and not is_running)


def _pid(file: Path) -> int | None:
    """Return the number in a pid file; None if there is none, or the user must not read it."""
    try:
        text = file.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None


def judge(services: Iterable[Service]) -> Iterator[Finding]:
    """Yield services that do not do what they are meant to."""
    for each in services:
        start = (
            f"`systemctl start {each.name}`"
            if each.kind == "systemd unit"
            else f"`service {each.name} start`"
        )
        if each.has_failed:
            text = f"service {each.name} has failed"
            advice = f"look at its log (`journalctl -u {each.name}`, or syslog), then {start}"
            yield _finding(Level.ERROR, "service-failed", text, advice)
        elif each.is_enabled and not each.is_running:
            text = f"service {each.name} is enabled, and does not run"
            yield _finding(Level.WARNING, "service-stopped", text, f"{start}, or disable it")
        elif each.is_running and each.is_enabled is False:
            text = f"service {each.name} runs, and will not start with the machine"
            advice = f"`systemctl enable {each.name}`"
            if each.kind != "systemd unit":
                advice = f"`update-rc.d {each.name} enable`"
            yield _finding(Level.WARNING, "service-disabled", text, advice)
        if each.needs_reload:
            text = f"the unit of {each.name} has changed on disk, and systemd uses the old one"
            yield _finding(
                Level.WARNING, "unit-changed", text, "`systemctl daemon-reload`, then restart the service"
            )
        if each.drop_ins:
            text = f"the unit of {each.name} is changed by {', '.join(each.drop_ins)}"
            advice = f"compare them with the unit after each upgrade: `systemctl cat {each.name}`"
            yield _finding(Level.ADVICE, "unit-overridden", text, advice)


def _finding(level: Level, name: str, text: str, advice: str) -> Finding:
    return Finding(level, "host", name, text, advice)


def daemons_here(services: Iterable[Service]) -> frozenset[str]:
    """Return the daemons that are meant to run on this host: dispatcher, workerpool or both.

    services -- the installed ones; of these, the enabled and the running count. Without any, both.
    """
    both = frozenset(("dispatcher", "workerpool"))
    return both & {each.daemon for each in services if each.is_enabled or each.is_running} or both
