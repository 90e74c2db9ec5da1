"""The tests' RabbitMQ: a private broker that can be told things over Erlang's own protocol."""

import base64
import json
import os
import socket
import subprocess
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote

from support.waiting import wait_until

from taskqueue.private_broker import PrivateBroker
from taskqueue.private_broker.rabbitmq import SERVER, USER, installed_home

SETTINGS = {
    "max_message_size": "16777216",  # RabbitMQ 4's default; that of 3.10 is eight times as much
    # Milliseconds until a delay queue sends on once more what was not confirmed: nobody can see it meanwhile,
    # as the delay queue counts it no longer, and by default that takes three minutes.
    "dead_letter_worker_publisher_confirm_timeout": "1000",
}


#: Has a node write down which queues it has, so that a SIGKILL makes it forget none. RabbitMQ before 4.3
#: answers a declaration before its databases (Mnesia; for quorum queues dets) have it in a file.
WRITE_DOWN = """
    (whereis(mnesia_sup) =:= undefined) orelse (ok = mnesia:sync_log()),
    [ok = dets:sync(Table) || Table <- dets:all()]
"""

EVERY_DELAY_QUEUE_HAS_ITS_WORKER = """
    AtLeastOnce = fun(Q) -> lists:member({<<"x-dead-letter-strategy">>, longstr, <<"at-least-once">>},
                                         amqqueue:get_arguments(Q)) end,
    length(lists:filter(AtLeastOnce, rabbit_amqqueue:list()))
        =< proplists:get_value(active, supervisor:count_children(rabbit_fifo_dlx_sup))
"""


class Node(PrivateBroker):
    """A private broker without lasting data, whose virtual hosts, alarms and policies tests may set."""

    #: The start script of every node: the installed RabbitMQ's, or another release's (support/rabbitmq.py).
    start_script: ClassVar[Path] = SERVER

    def __init__(self, state_dir: Path, control: tuple[str, int] = ("127.0.0.1", 0), **settings: str) -> None:
        # Kept bound, so that the port is still ours when the node is started again.
        self._control = socket.socket()
        self._control.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._control.bind(control)
        self.control: tuple[str, int] = self._control.getsockname()
        super().__init__(
            state_dir,
            rabbit_settings=SETTINGS | settings,
            keep_data=False,
            control_port=self.control[1],
            server=self.start_script,
        )

    @property
    def version(self) -> tuple[int, ...]:
        """The numbers of RabbitMQ's version."""
        home = installed_home(self.start_script).name  # rabbitmq_server-3.10.8
        return tuple(int(number) for number in home.partition("-")[2].split("."))

    def stop(self) -> None:
        super().stop()
        self._control.close()

    def kill_settled(self) -> None:
        """Kill the node once what it has declared is written down.

        A queue of the last moments, and all that is confirmed in it, is gone after a SIGKILL. That is not
        ours to test.
        """
        self.evaluate(WRITE_DOWN)
        self.kill()

    def limit_messages(self, size: int) -> None:
        """Have new channels take only messages of so many bytes, as after a change of the configuration."""
        self.evaluate(f"application:set_env(rabbit, max_message_size, {size})")
        self.evaluate(f"persistent_term:put(max_message_size, {size})")  # where RabbitMQ 4 looks

    def evaluate(self, expression: str) -> str:
        """Evaluate an Erlang expression, without its final full stop, inside the node; return its value."""
        address, port = self.control
        done = subprocess.run(
            ["erl_call", "-R", "-address", f"{address}:{port}", "-e"],
            input=f"{expression}.\n",
            env={"PATH": os.environ["PATH"], "HOME": str(self.state_dir)},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        if not done.stdout.startswith("{ok, "):
            raise AssertionError(f"{expression}: {done.stdout}{done.stderr}")
        return done.stdout.removeprefix("{ok, ").removesuffix("}")

    def add_vhost(self, name: str) -> str:
        """Make an empty virtual host; return the URL of the user who may do everything there."""
        self.evaluate(f'rabbit_vhost:add(<<"{name}">>, <<"tests">>)')
        permissions = f'<<"{USER}">>, <<"{name}">>, <<".*">>, <<".*">>, <<".*">>, <<"tests">>'
        self.evaluate(f"rabbit_auth_backend_internal:set_permissions({permissions})")
        return self.url_of(name)

    def add_user(self, name: str, vhost: str) -> str:
        """Make a user who may do everything in a virtual host; return the URL there."""
        backend = "rabbit_auth_backend_internal"
        self.evaluate(f'{backend}:add_user(<<"{name}">>, <<"password">>, <<"tests">>)')
        permissions = f'<<"{name}">>, <<"{vhost}">>, <<".*">>, <<".*">>, <<".*">>, <<"tests">>'
        self.evaluate(f"{backend}:set_permissions({permissions})")
        return f"amqp://{name}:password@{self.url_of(vhost).rpartition('@')[2]}"

    def delete_user(self, name: str) -> None:
        """Delete a user that add_user made."""
        self.evaluate(f'rabbit_auth_backend_internal:delete_user(<<"{name}">>, <<"tests">>)')

    def url_of(self, vhost: str) -> str:
        """Return the URL of a virtual host."""
        return self.url.removesuffix("%2F") + quote(vhost, safe="")

    def delete_vhost(self, name: str) -> None:
        """Delete a virtual host with all that is in it, connections included.

        A queue that dead-letters at least once must have its worker first: to delete one without it, soon
        after the start of the node, ends the supervisor of all workers; no delay queue works from then on.
        """
        wait_until(
            lambda: self.evaluate(EVERY_DELAY_QUEUE_HAS_ITS_WORKER) == "true", 30, "dead-letter workers"
        )
        self.evaluate(f'rabbit_vhost:delete(<<"{name}">>, <<"tests">>)')

    def queues(self, vhost: str) -> dict[str, dict[str, Any]]:
        """Return every queue's arguments by its name, and its real type under the key "type"."""
        own = "[{K, V} || {K, _, V} <- amqqueue:get_arguments(Q)]"
        arguments = f'maps:from_list([{{<<"type">>, amqqueue:get_type(Q)}} | {own}])'
        queue = f"{{element(4, amqqueue:get_name(Q)), {arguments}}}"
        every = f'[{queue} || Q <- rabbit_amqqueue:list(<<"{vhost}">>)]'
        encoded = self.evaluate(f"base64:encode_to_string(rabbit_json:encode(maps:from_list({every})))")
        queues: dict[str, dict[str, Any]] = json.loads(base64.b64decode(encoded))
        for each in queues.values():
            each["type"] = each["type"].removeprefix("rabbit_").removesuffix("_queue")
        return queues

    def unacknowledged(self, vhost: str, queue: str) -> int:
        """Return how many messages of a queue (0 without one) were delivered and are not acknowledged."""
        return self._count(vhost, queue, "messages_unacknowledged")

    def messages(self, vhost: str, queue: str) -> int:
        """Return how many messages a queue has, with those that were delivered and are not acknowledged.

        0 if there is no such queue.
        """
        return self._count(vhost, queue, "messages")

    def _count(self, vhost: str, queue: str, what: str) -> int:
        name = f'rabbit_misc:r(<<"{vhost}">>, queue, <<"{queue}">>)'
        there = f"{{ok, Queue}} -> [{{_, N}}] = rabbit_amqqueue:info(Queue, [{what}]), N"
        return int(self.evaluate(f"case rabbit_amqqueue:lookup({name}) of {there}; _ -> 0 end"))

    def serve_management(self) -> str:
        """Start the plugin rabbitmq_management, which nodes of tests lack; return its URL."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        plugins = installed_home(self.start_script) / "plugins"
        self.evaluate(f'[code:add_pathz(Path) || Path <- filelib:wildcard("{plugins}/*/ebin")]')
        listener = f'[{{port, {port}}}, {{ip, "127.0.0.1"}}]'
        self.evaluate(
            "application:load(rabbitmq_management), "
            f"application:set_env(rabbitmq_management, tcp_config, {listener}), "
            "application:set_env(rabbit, collect_statistics, fine), "
            "{ok, _} = application:ensure_all_started(rabbitmq_management)"
        )
        return f"http://127.0.0.1:{port}"

    def set_alarm(self, *, on: bool) -> None:
        """Raise or end the memory alarm, under which RabbitMQ reads from no connection that publishes.

        When this returns, every connection has been told.
        """
        limit = "{resource_limit, memory, node()}"
        event = f"{{set_alarm, {{{limit}, []}}}}" if on else f"{{clear_alarm, {limit}}}"
        self.evaluate(f"gen_event:sync_notify(rabbit_alarm, {event})")
