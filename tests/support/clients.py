"""Clients of RabbitMQ in other languages, and others in Python: each is a program that submits one workitem.

A program gets a URL, a body and "reply" or "results": whether it asks for a reply in a queue of its own, or
waits in the queue `results`. It publishes to `taskqueue` with its library's defaults, and prints the result.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAMS = ROOT / "tests" / "clients"
NODE_MODULES = ROOT / ".clients" / "node_modules"
GO_PATH = Path("/usr/share/gocode")
JARS = [Path("/usr/share/java") / name for name in ("amqp-client.jar", "slf4j-api.jar", "slf4j-nop.jar")]


@dataclass(frozen=True)
class Client:
    """One client library: its name, and how its program is run."""

    name: str
    probe: list[str]  # fails where the library is not installed
    command: Callable[[Path], list[str]]  # what comes before the arguments; may use a directory

    def require(self) -> None:
        """Skip the test where the library is not installed, but fail it where CI is set."""
        if shutil.which(self.probe[0]) and not self._run(self.probe).returncode:
            return
        fail = pytest.fail if os.environ.get("CI") else pytest.skip
        fail(f"{self.name} is not installed; `scripts/setup.sh clients` installs it")

    def start(self, directory: Path, url: str, body: str, mode: str) -> subprocess.Popen[str]:
        """Start the program; it prints the result, or ends with another status than 0."""
        command = [*self.command(directory), url, body, mode]
        return subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=_environment()
        )

    @staticmethod
    def _run(command: list[str]) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(command, env=_environment(), check=False, capture_output=True, timeout=60)


def _environment() -> dict[str, str]:
    return {**os.environ, "NODE_PATH": str(NODE_MODULES), "GO111MODULE": "off", "GOPATH": str(GO_PATH)}


def _script(*interpreter: str, name: str) -> Callable[[Path], list[str]]:
    return lambda _directory: [*interpreter, str(PROGRAMS / name)]


def _built_by_go(directory: Path) -> list[str]:
    program = directory / "client"
    if not program.exists():
        build = ["go", "build", "-o", str(program), str(PROGRAMS / "client_amqp091.go")]
        environment = {**_environment(), "GOCACHE": str(directory / "cache")}
        subprocess.run(build, env=environment, check=True, timeout=100)
    return [str(program)]


def _python(module: str, name: str) -> Client:
    return Client(module, [sys.executable, "-c", f"import {module}"], _script(sys.executable, name=name))


_java = partial(_script, "java", "-cp", ":".join(map(str, JARS)))

CLIENTS = [
    Client("bunny", ["ruby", "-rbunny", "-e", ""], _script("ruby", name="client_bunny.rb")),
    Client(
        "ext-amqp",
        ["php", "-r", "exit(extension_loaded('amqp') ? 0 : 1);"],
        _script("php", name="client_ext_amqp.php"),
    ),
    Client(
        "php-amqplib",
        ["php", "-r", "require 'PhpAmqpLib/autoload.php';"],
        _script("php", name="client_amqplib.php"),
    ),
    Client("amqplib", ["node", "-e", "require('amqplib')"], _script("node", name="client_amqplib.js")),
    Client("amqp091-go", ["go", "list", "github.com/rabbitmq/amqp091-go"], _built_by_go),
    Client("amqp-client", ["test", "-e", str(JARS[0])], _java(name="ClientJava.java")),
    Client("amqp-tools", ["amqp-publish", "-?"], _script("sh", name="client_amqp_tools.sh")),
    _python("aio_pika", "client_aio_pika.py"),
    _python("amqp", "client_py_amqp.py"),
    _python("kombu", "client_kombu.py"),
    _python("pika", "client_pika.py"),
]
