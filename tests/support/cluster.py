"""Three RabbitMQ nodes on one machine that are one broker."""

import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest
from support.node import WRITE_DOWN, Node
from support.waiting import wait_until

ADDRESSES = ("127.0.0.2", "127.0.0.3", "127.0.0.4")

SETTINGS = {
    "cluster_partition_handling": "pause_minority",
    # Milliseconds until a quorum queue dead-letters once more what was on its way when a node died.
    # RabbitMQ's default is three minutes.
    "dead_letter_worker_publisher_confirm_timeout": "1000",
}


class Member(Node):
    """A node of a cluster, with a loopback address of its own, which the other nodes know it by.

    All members' distributions listen on the same port, each on its own address: so they find each other
    without epmd. AMQP is spoken on 127.0.0.1, on a port of its own.
    """

    def __init__(self, state_dir: Path, address: str, port: int, shared: dict[str, str]) -> None:
        """Describe a node.

        port: of the distribution; 0 for any
        shared: files of the state directory that are the same for all members
        """
        self.name = f"taskqueue@{address}"
        self._shared = shared
        super().__init__(state_dir, (address, port), **SETTINGS)

    def join(self, other: "Member") -> None:
        """Have the node, when it starts for the first time, join another one's cluster."""
        self._rabbit_settings["cluster_nodes"] = f"{{['{other.name}'], disc}}"

    def _configure(self) -> dict[str, str]:
        for name, text in self._shared.items():
            self._state.write(name, text)
        address, port = self.control
        interface = f"inet_dist_use_interface {{{address.replace('.', ',')}}}"
        return super()._configure() | {
            "RABBITMQ_NODENAME": self.name,
            "RABBITMQ_USE_LONGNAME": "true",  # an address is one
            # The node listens; the helpers that RabbitMQ 4 starts to ask the other nodes must not, for they
            # would on the same port. Of several such flags the first one counts.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": f"-name {self.name} -dist_listen true",
            "ERL_FLAGS": f"-start_epmd false -erl_epmd_port {port} -kernel {interface} -dist_listen false",
        }

    def settle(self) -> None:
        """Have the node write down which queues it has."""
        self.evaluate(WRITE_DOWN)


class Cluster:
    """Three nodes, two of which may do without the third: never kill another before it is back."""

    def __init__(self, directory: Path) -> None:
        shared = {".erlang.cookie": secrets.token_hex(16), "password": secrets.token_hex(16)}
        first = Member(directory / "1", ADDRESSES[0], 0, shared)
        port = first.control[1]
        others = [
            Member(directory / str(number), address, port, shared)
            for number, address in enumerate(ADDRESSES[1:], 2)
        ]
        for other in others:
            other.join(first)
        self.members = [first, *others]

    def __enter__(self) -> Self:
        try:
            for member in self.members:
                member.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        for member in self.members:
            member.stop()

    @property
    def url(self) -> str:
        """The AMQP URL with every host, password included; the virtual host is `/`."""
        return self.url_of("/")

    def url_of(self, vhost: str) -> str:
        """Return the URL, with every host, of a virtual host."""
        first = self.members[0]
        hosts = ",".join(f"127.0.0.1:{member.port}" for member in self.members)
        return first.url_of(vhost).replace(f"127.0.0.1:{first.port}", hosts)

    def lead(self, member: Member) -> None:
        """Make a node the leader of every quorum queue."""
        self.await_whole(member)
        quorum_queues = "Q <- rabbit_amqqueue:list(), amqqueue:get_type(Q) =:= rabbit_quorum_queue"
        transfer = f"[rabbit_quorum_queue:transfer_leadership(Q, '{member.name}') || {quorum_queues}]"
        leaders = f"lists:usort([rabbit_quorum_queue:info(Q, [leader]) || {quorum_queues}])"
        wait_until(
            lambda: member.evaluate(f"{transfer}, {leaders}") == f"[[{{leader, '{member.name}'}}]]",
            30,
            "another leader",
        )

    def kill(self, victim: Member) -> None:
        """Kill a node with SIGKILL as soon as every queue can do without it."""
        self.await_whole(victim)
        victim.settle()
        victim.kill()

    def split(self, member: Member) -> None:
        """Cut a node off from the others, which it cannot reach, nor they it; wait until it pauses."""
        others = [each.name for each in self.members if each is not member]
        cookies = ", ".join(f"erlang:set_cookie('{name}', another)" for name in others)
        cuts = ", ".join(f"erlang:disconnect_node('{name}')" for name in others)
        member.evaluate(f"{cookies}, {cuts}")
        wait_until(lambda: member.evaluate("rabbit:is_running()") == "false", 60, "the pause of a minority")

    def heal(self, member: Member) -> None:
        """Let a node reach the others again; wait until it serves clients."""
        others = [each.name for each in self.members if each is not member]
        member.evaluate(", ".join(f"erlang:set_cookie('{name}', erlang:get_cookie())" for name in others))
        wait_until(lambda: member.evaluate("rabbit:is_running()") == "true", 60, "the end of the pause")

    def await_whole(self, member: Member) -> None:
        """Wait for what `rabbitmq-diagnostics check_if_node_is_quorum_critical` tells an administrator."""
        critical = "rabbit_quorum_queue:list_with_minimum_quorum()"
        wait_until(lambda: member.evaluate(critical) == "[]", 60, "every quorum queue's third member")


@pytest.fixture(scope="module")
def cluster(rabbitmq: None, node_directory: Path) -> Iterator[Cluster]:
    """The cluster of a module's tests."""
    directory = node_directory / f"cluster-{secrets.token_hex(4)}"
    with Cluster(directory) as cluster:
        yield cluster


@pytest.fixture
def vhost(cluster: Cluster) -> str:
    """The name of a virtual host of this test alone, while all nodes run."""
    for member in cluster.members:
        member.start()
    name = f"cluster-{secrets.token_hex(4)}"
    cluster.members[0].add_vhost(name)
    return name


@pytest.fixture
def amqp_url(cluster: Cluster, vhost: str) -> str:
    """The AMQP URL of this test's virtual host, with every host."""
    return cluster.url_of(vhost)
