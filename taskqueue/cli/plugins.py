"""`taskqueue plugins`."""

import os
import pwd
import subprocess
import sys
from dataclasses import asdict
from typing import Any, Final

import click

from taskqueue import plugins as installed_plugins
from taskqueue.cli import options, tables
from taskqueue.config import PoolSettings
from taskqueue.plugins import Plugin

_IMPORT_TIMEOUT: Final = 60.0  # seconds
_TRY: Final = "import sys; from taskqueue.plugins import load; load(sys.argv[1], sys.argv[2])"


@click.command()
@tables.format_option
def plugins(style: str) -> None:
    """List the worker plugins that are installed here, and whether they can be imported.

    Each is imported in a process of its own; for root, as the user whom workers run as by default.
    """
    found = installed_plugins.installed()
    verdicts = {plugin: _verdict(plugin) for plugin in found}
    if style == "json":
        tables.show_json([asdict(plugin) | {"importable": verdicts[plugin]} for plugin in found])
        return
    if not found:
        click.echo(
            f"No plugin is installed: no distribution has an entry point under {installed_plugins.WORKERS}."
        )
        return
    rows = [
        (plugin.name, f"{plugin.distribution} {plugin.version}", plugin.target, verdicts[plugin])
        for plugin in found
    ]
    tables.show_table("Plugins", ("worker type", "distribution", "entry point", "importable"), rows)


def _verdict(plugin: Plugin) -> str:
    """Return "yes", or why the plugin cannot be imported."""
    user = PoolSettings().worker_user if os.geteuid() == 0 else None
    command = [sys.executable, "-P", "-c", _TRY, plugin.name, installed_plugins.WORKERS]
    try:
        done = subprocess.run(
            command,
            env=options.environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_IMPORT_TIMEOUT,
            check=False,
            **_identity(user),
        )
    except KeyError:
        return f"not tried: there is no user {user}, and plugin code does not run as root"
    except OSError as error:
        return f"no: user {user or 'you'} cannot run {sys.executable}: {error.strerror}"
    except subprocess.TimeoutExpired:
        return f"no: the import takes more than {_IMPORT_TIMEOUT:g} s"
    if done.returncode == 0:
        return "yes"
    lines = done.stderr.decode(errors="replace").strip().splitlines()
    return "no: " + (lines[-1].partition(": ")[2] or lines[-1] if lines else f"exit status {done.returncode}")


def _identity(user: str | None) -> dict[str, Any]:
    """Return how to run a process as a user; KeyError if there is none of that name."""
    if user is None:
        return {}
    entry = pwd.getpwnam(user)
    groups = os.getgrouplist(user, entry.pw_gid)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": groups, "cwd": "/"}
