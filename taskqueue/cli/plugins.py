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
from taskqueue.errors import ExitStatus
from taskqueue.plugins import Plugin
from taskqueue.process import privileges

_IMPORT_TIMEOUT: Final = 60.0  # seconds
_TRY: Final = "import sys; from taskqueue.plugins import load; load(sys.argv[1], sys.argv[2])"


@click.command(short_help="List the installed plugins and try to import them.")
@tables.format_option
def plugins(style: str) -> None:
    """List the worker plugins and modules of tasks that are installed here, and whether they can be imported.

    Each is imported in a process of its own; for root, as the user whom workers run as by default.

    Exit status: 0 if all can be imported, 1 if not.
    """
    found = installed_plugins.listed()
    errors = {plugin: _try_import(plugin, group) for plugin, group in found}
    if style == "json":
        tables.show_json(
            [
                asdict(plugin) | {"importable": error is None, "error": error}
                for plugin, error in errors.items()
            ]
        )
    elif found:
        rows = [
            (*tables.plugin_row(plugin), "yes" if error is None else f"no: {error}")
            for plugin, error in errors.items()
        ]
        tables.show_table("Plugins", (*tables.PLUGIN_COLUMNS, "importable"), rows)
    else:
        click.echo(
            "No plugin is installed: no distribution has an entry point under "
            f"{installed_plugins.WORKERS} or {installed_plugins.TASKS}."
        )
    sys.exit(ExitStatus.FAILED if any(errors.values()) else ExitStatus.OK)


def _try_import(plugin: Plugin, group: str) -> str | None:
    """Return why the plugin cannot be imported, or None if it can."""
    user = PoolSettings().worker_user if os.geteuid() == 0 else None
    command = [sys.executable, "-P", "-c", _TRY, plugin.name, group]
    try:
        done = subprocess.run(
            command,
            env=_environment(user),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_IMPORT_TIMEOUT,
            check=False,
            **_identity(user),
        )
    except KeyError:
        return f"not tried, as there is no user {user}, and plugin code does not run as root"
    except OSError as error:
        return f"user {user or 'you'} cannot run {sys.executable}: {error.strerror}"
    except subprocess.TimeoutExpired:
        return f"the import takes more than {_IMPORT_TIMEOUT:g} s"
    if done.returncode == 0:
        return None
    lines = done.stderr.decode(errors="replace").strip().splitlines()
    return lines[-1].partition(": ")[2] or lines[-1] if lines else f"exit status {done.returncode}"


def _environment(user: str | None) -> dict[str, str]:
    """Return what a plugin's code may see of the environment, as far as another user's is concerned."""
    if user is None:
        return options.environment()
    path = {name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ}
    return privileges.environment(user, os.environ) | path


def _identity(user: str | None) -> dict[str, Any]:
    """Return how to run a process as a user, away from our terminal; KeyError if there is none."""
    if user is None:
        return {}
    entry = pwd.getpwnam(user)
    groups = os.getgrouplist(user, entry.pw_gid)
    return {
        "user": entry.pw_uid,
        "group": entry.pw_gid,
        "extra_groups": groups,
        "cwd": "/",
        "start_new_session": True,
    }
