"""`taskqueue plugins`."""

import os
import subprocess
import sys
from dataclasses import asdict
from typing import Final

import click

from taskqueue import plugins as installed_plugins
from taskqueue.cli import options, tables
from taskqueue.plugins import Plugin

_IMPORT_TIMEOUT: Final = 60.0  # seconds
_TRY: Final = "import sys; from taskqueue.plugins import load; load(sys.argv[1], sys.argv[2])"


@click.command()
@tables.format_option
def plugins(style: str) -> None:
    """List the worker plugins that are installed here, and whether they can be imported.

    Each is imported in a process of its own; root does not import any.
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
    if os.geteuid() == 0:
        return "not tried: plugin code does not run as root"
    command = [sys.executable, "-P", "-c", _TRY, plugin.name, installed_plugins.WORKERS]
    try:
        done = subprocess.run(
            command,
            env=options.environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_IMPORT_TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"no: the import takes more than {_IMPORT_TIMEOUT:g} s"
    if done.returncode == 0:
        return "yes"
    lines = done.stderr.decode(errors="replace").strip().splitlines()
    return "no: " + (lines[-1].partition(": ")[2] or lines[-1] if lines else f"exit status {done.returncode}")
