"""The inside of the broker as `rabbitmqctl eval` tells it, to root on the broker's host."""

import base64
import json
import math
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from taskqueue.broker.listener import listener_at
from taskqueue.config import AmqpSettings
from taskqueue.doctor.inside import BrokerNode, Inside, NotTold, QueueSettings
from taskqueue.process.relatives import user_name

_TIMEOUT: Final = 15.0  # seconds; meanwhile no heartbeat is sent
_USER: Final = "rabbitmq"  # Debian's, like all packages' of RabbitMQ
_QUOTED: Final = re.compile(r'"([A-Za-z0-9+/=]*)"')

#: An Erlang expression whose value is JSON in Base64. It reads metadata only, so that no queue that is down
#: makes it wait. `Or` stands in for functions that a release of RabbitMQ lacks.
_EXPRESSION: Final = """
Or = fun(Ask, Else) -> try Ask() catch _:_ -> Else end end,
Text = fun(Term) -> iolist_to_binary(io_lib:format("~0p", [Term])) end,
Value = fun(V) when is_binary(V); is_integer(V); is_boolean(V) -> V; (V) -> Text(V) end,
Env = fun(Key) -> case application:get_env(rabbit, Key) of {ok, V} -> Text(V); undefined -> <<>> end end,
Running = [node() | nodes()],
Members = Or(fun() -> rabbit_nodes:list_members() end, Or(fun() -> rabbit_nodes:all() end, Running)),
Version = fun(N) -> case rpc:call(N, rabbit_misc, version, [], 5000) of
    {badrpc, _} -> <<>>; V -> iolist_to_binary(V) end end,
Names = fun(Names) -> [N || N <- Names, is_binary(N)] end,
Definition = fun(Q) -> case rabbit_policy:effective_definition(Q) of
    L when is_list(L) -> [{K, Value(V)} || {K, V} <- L]; _ -> [] end end,
Queue = fun(Q) -> #{
    name => element(4, amqqueue:get_name(Q)),
    type => Text(amqqueue:get_type(Q)),
    durable => amqqueue:is_durable(Q),
    arguments => maps:from_list([{K, Value(V)} || {K, _, V} <- amqqueue:get_arguments(Q)]),
    policy => maps:from_list(Definition(Q)),
    policies => Names([rabbit_policy:name(Q), rabbit_policy:name_op(Q)])} end,
Ours = fun(Q) -> case element(4, amqqueue:get_name(Q)) of
    <<"taskqueue", _/binary>> -> true; <<"worker_", _/binary>> -> true; _ -> false end end,
Users = case application:get_env(rabbit, auth_backends) of
    {ok, [rabbit_auth_backend_internal]} -> Or(fun() ->
        Names([proplists:get_value(user, U) || U <- rabbit_auth_backend_internal:list_users()]) end, false);
    _ -> false end,
base64:encode_to_string(iolist_to_binary(rabbit_json:encode(#{
    cluster => rabbit_nodes:cluster_name(),
    nodes => [#{name => Text(N), running => lists:member(N, Running), version => Version(N)} || N <- Members],
    alarms => [Text(A) || A <- Or(fun() -> rabbit_alarm:get_alarms() end, [])],
    partitions => length(Or(fun() -> rabbit_node_monitor:partitions() end, [])),
    partition_handling => Env(cluster_partition_handling),
    consumer_timeout => Env(consumer_timeout),
    users => Users,
    queues => [Queue(Q) || Q <- rabbit_amqqueue:list(base64:decode(<<"VHOST">>)), Ours(Q)]})))
"""
#: As RabbitMQ names what has an alarm.
_ALARM: Final = re.compile(r"\{\{resource_limit,(\w+),'?([^'}]+)'?\}")


def look(
    amqp: AmqpSettings,
    cluster: str,
    command: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
) -> Inside:
    """Ask the node of this host.

    Args:
        amqp: the address by which AMQP reaches the broker.
        cluster: the name of its cluster, as AMQP has told it.
        command: the words that call rabbitmqctl; () to find it.
        environment: its variables; None for a short one.

    Raises NotTold.
    """
    told = _evaluate(expression(amqp.vhost), command or _found(amqp), environment)
    if told["cluster"] != cluster:
        raise NotTold(f"rabbitmqctl reaches the cluster {told['cluster']}, and AMQP the cluster {cluster}")
    return inside(told)


def _found(amqp: AmqpSettings) -> Sequence[str]:
    if os.geteuid() != 0:
        raise NotTold("rabbitmqctl is for root")
    ports = [port for host, port in amqp.hosts if _is_here(host)]
    if not ports:
        raise NotTold("rabbitmqctl works on the broker's host, and the broker is on another one")
    if not any(_may_be_the_systems(port) for port in ports):
        raise NotTold(f"the broker is not the system's, which runs as user {_USER}")
    path = shutil.which("rabbitmqctl", path="/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/sbin:/usr/local/bin")
    if path is None:
        raise NotTold("there is no rabbitmqctl")
    return [path]


def _is_here(host: str) -> bool:
    """Whether a host's name leads to this machine: an address that a socket can be bound to."""
    try:
        addresses = {(each[0], each[4]) for each in socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)}
    except OSError:
        return False
    return any(_is_own(family, address) for family, address in addresses)


def _may_be_the_systems(port: int) -> bool:
    """Whether the system's RabbitMQ may listen at a port: rabbitmqctl takes seconds to see that."""
    listening = listener_at(port)
    return listening is None or user_name(listening.uid) == _USER


def _is_own(family: int, address: tuple[Any, ...]) -> bool:
    try:
        with socket.socket(family, socket.SOCK_STREAM) as attempt:
            attempt.bind(address)
    except OSError:
        return False
    return True


def expression(vhost: str) -> str:
    """Return the Erlang expression that tells the inside; its value is read by `read`."""
    encoded = base64.b64encode(vhost.encode()).decode()
    return " ".join(_EXPRESSION.replace("VHOST", encoded).split())


def read(printed: str) -> dict[str, Any]:
    """Return what the expression has told; raises ValueError or TypeError.

    printed -- its value as Erlang prints a string, perhaps over several lines
    """
    return dict(json.loads(base64.b64decode("".join(_QUOTED.findall(printed)), validate=True)))


def _evaluate(asked: str, command: Sequence[str], environment: Mapping[str, str] | None) -> dict[str, Any]:
    plain = {
        "PATH": os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"),
        "HOME": "/root",
        "LANG": "C.UTF-8",
    }
    words = [*command, "--quiet", "eval", f"{asked}."]
    try:
        done = subprocess.run(
            words,
            env=dict(environment or plain),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TIMEOUT,
            check=False,
        )
    except OSError as error:
        raise NotTold(f"{command[0]}: {error.strerror}") from None
    except subprocess.TimeoutExpired:
        raise NotTold(f"rabbitmqctl takes more than {_TIMEOUT:g} s") from None
    try:
        if done.returncode:
            raise ValueError(done.returncode)
        return read(done.stdout)
    except (ValueError, TypeError):  # binascii.Error is a ValueError
        words = (done.stderr or done.stdout).split("\n")
        said = next((line.strip() for line in words if line.strip()), f"exit status {done.returncode}")
        raise NotTold(f"rabbitmqctl fails: {said[:200].rstrip('.')}") from None


def inside(told: Mapping[str, Any]) -> Inside:
    """Return what the expression has told."""
    return Inside(
        source="rabbitmqctl",
        nodes=tuple(
            BrokerNode(each["name"].strip("'"), each["running"], each["version"]) for each in told["nodes"]
        ),
        queues={each["name"]: _settings(each) for each in told["queues"]},
        alarms=tuple(_alarms(told["alarms"])),
        has_partitions=told["partitions"] > 0,
        partition_handling=told["partition_handling"] or None,
        consumer_timeout=_seconds(told["consumer_timeout"]),
        users=frozenset(told["users"]) if told["users"] else None,
    )


def _settings(queue: Mapping[str, Any]) -> QueueSettings:
    return QueueSettings(
        kind=queue["type"].removeprefix("rabbit_").removesuffix("_queue"),
        arguments={key.removeprefix("x-"): value for key, value in queue["arguments"].items()}
        | {"durable": queue["durable"]},
        policy=queue["policy"],
        policy_name=" and ".join(queue["policies"]),
    )


def _alarms(told: Iterable[str]) -> Iterable[str]:
    for each in told:
        match = _ALARM.search(each)
        yield f"{match[1].replace('disk', 'disk space')} of {match[2]}" if match else each


def _seconds(milliseconds: str) -> float | None:
    """Return a time of RabbitMQ's in seconds: "undefined" is no limit, "" is not known."""
    if milliseconds.isdecimal():
        return int(milliseconds) / 1000
    return math.inf if milliseconds else None
