"""`taskqueue up` with a broker of its own, on a machine with other users."""

import os
import signal

import pytest
from support.processes import children, name
from support.site import AS_ROOT
from support.stranger import stranger
from support.waiting import wait_until


def port_of(everything):
    """Return the port of the private broker, and its password."""
    [address] = everything.directory.glob("taskqueue/broker/address")
    user, _, rest = address.read_text().removeprefix("amqp://taskqueue:").partition("@")
    return int(rest.partition(":")[2].partition("/")[0]), user


@pytest.mark.skipif(not AS_ROOT, reason="only root can be another user, too")
def test_who_takes_the_port_of_a_private_broker_that_ended_hears_no_password_and_stops_nothing(
    site, python, tmp_path, rabbitmq
):
    site.configure("[good]\nworkers: 1", url="")
    everything = site.start("up", "-c", str(site.config))
    everything.wait_for("ready: dispatcher runs, workerpool runs", 60)
    port, password = port_of(everything)
    everything.signal(signal.SIGSTOP)  # so that the stranger comes first
    broker = next(pid for pid in children(everything.pid) if name(pid) == "timeout")
    os.killpg(broker, signal.SIGKILL)
    notes = tmp_path / "notes"
    with stranger(port, notes):
        wait_until(lambda: notes.read_bytes().count(b"AMQP") >= 3, 30, everything.output)
        everything.signal(signal.SIGCONT)
        everything.wait_for("another process uses the private broker's port", 60)
        everything.wait_for("takes work", 60, times=everything.output().count("takes work") + 1)
        done = site.run(
            *("submit", "good", "-", "--wait", "--timeout", "50", "-c", str(site.config)),
            XDG_STATE_HOME=str(everything.directory),
        )
        assert done.returncode == 0, f"{done.stderr}\n{everything.output()}"
        assert port_of(everything)[0] != port
    assert password.encode() not in notes.read_bytes()
    assert f"the server at 127.0.0.1:{port} belongs to another user" in everything.output()
    assert everything.stop() == 0
