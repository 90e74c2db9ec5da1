"""The dispatcher under faults: it loses nothing, nothing is unbounded, its lines are clear."""

from collections.abc import Iterator

import pytest
from support.foreign import Foreign
from support.ground import Ground
from support.node import Node
from support.processes import dispatchers, kill
from support.proxy import Proxy
from support.waiting import wait_until

FULL = {"x-max-length": 1, "x-overflow": "reject-publish"}


def consumers(ground: Ground, number: int = 1) -> None:
    wait_until(lambda: ground.foreign.consumers("taskqueue") == number, what=f"{number} consumers")


def vhost_of(ground: Ground) -> str:
    return ground.url.rpartition("/")[2]


@pytest.fixture
def watcher(ground: Ground) -> Iterator[Foreign]:
    """A second client: an alarm stops the first one."""
    with Foreign(ground.url) as client:
        yield client


def publish_numbers(ground: Ground, number: int, worker_type: str = "counted") -> None:
    ground.foreign.declare("taskqueue")
    ground.foreign.declare(f"worker_{worker_type}")
    ground.foreign.publish_many((b"%d" % each for each in range(number)), type=worker_type)


def test_a_dispatcher_that_is_killed_again_and_again_loses_nothing(ground: Ground) -> None:
    number = 6000
    publish_numbers(ground, number)
    dispatcher = ground.start("dispatcher", "[dispatcher]\nwindow: 50\ninstances: 2")
    arrived: set[bytes] = set()
    for deaths in range(1, 5):
        arrived |= {message.body for message in ground.foreign.collect("worker_counted", 800)}
        kill(wait_until(lambda: dispatchers(dispatcher.pid))[0])
        dispatcher.wait_for("ended: killed by SIGKILL", times=deaths)
    while len(arrived) < number:
        arrived.add(ground.foreign.get("worker_counted").body)
    assert arrived == {b"%d" % each for each in range(number)}


def test_what_was_acknowledged_was_confirmed_before(ground: Ground) -> None:
    publish_numbers(ground, 3000)
    dispatcher = ground.start("dispatcher")
    wait_until(lambda: (ground.foreign.depth("worker_counted") or 0) > 100)
    dispatcher.kill()
    dispatcher.assert_nothing_left()
    wait_until(lambda: not ground.foreign.consumers("taskqueue"))
    waiting = ground.foreign.depth("taskqueue")
    assert waiting
    assert waiting + ground.foreign.depth("worker_counted") >= 3000


def test_a_dispatcher_that_is_asked_to_stop_finishes_what_it_has(ground: Ground) -> None:
    publish_numbers(ground, 3000)
    dispatcher = ground.start("dispatcher")
    wait_until(lambda: (ground.foreign.depth("worker_counted") or 0) > 100)
    assert dispatcher.stop() == 0
    dispatcher.assert_nothing_left()
    wait_until(lambda: ground.foreign.depth("taskqueue") + ground.foreign.depth("worker_counted") == 3000)


def test_the_window_bounds_what_is_in_flight_and_a_full_queue_is_not_acknowledged(ground: Ground) -> None:
    ground.foreign.declare("worker_full", arguments=FULL)
    publish_numbers_to_full(ground, 50)
    dispatcher = ground.start("dispatcher", "[dispatcher]\nwindow: 10")
    dispatcher.wait_for("queue worker_full refused a message", times=10)
    assert ground.foreign.depth("taskqueue") == 50 - 1 - 10
    dispatcher.kill()
    wait_until(lambda: ground.foreign.depth("taskqueue") == 49)


def test_what_waits_for_room_is_not_acknowledged_with_what_came_after_it(ground: Ground) -> None:
    ground.foreign.declare("worker_full", arguments=FULL)
    publish_numbers_to_full(ground, 2)
    publish_numbers(ground, 100)
    dispatcher = ground.start("dispatcher", "[dispatcher]\nwindow: 20")
    dispatcher.wait_for("queue worker_full refused a message")
    assert len(ground.foreign.collect("worker_counted", 100)) == 100
    dispatcher.kill()
    wait_until(lambda: ground.foreign.depth("taskqueue"), what="the one that waits")
    left = ground.foreign.collect("taskqueue", ground.foreign.depth("taskqueue"))
    assert [message.body for message in left if message.properties["type"] == "full"] == [b"1"]


def test_what_came_after_one_that_waits_is_acknowledged_soon(ground: Ground, broker: Node) -> None:
    ground.foreign.declare("worker_full", arguments=FULL)
    publish_numbers_to_full(ground, 2)
    publish_numbers(ground, 100)
    dispatcher = ground.start("dispatcher")  # whose window is many times as large
    dispatcher.wait_for("queue worker_full refused a message")
    assert len(ground.foreign.collect("worker_counted", 100)) == 100
    wait_until(lambda: broker.unacknowledged(vhost_of(ground), "taskqueue") == 1)
    dispatcher.kill()
    wait_until(lambda: ground.foreign.depth("taskqueue") == 1)


def publish_numbers_to_full(ground: Ground, number: int) -> None:
    ground.foreign.declare("taskqueue")
    for each in range(number):
        ground.foreign.publish(b"%d" % each, type="full")


def test_work_for_a_full_queue_arrives_once_there_is_room_and_holds_nobody_up(ground: Ground) -> None:
    ground.foreign.declare("worker_full", arguments=FULL)
    publish_numbers_to_full(ground, 3)
    publish_numbers(ground, 100)
    dispatcher = ground.start("dispatcher", "[dispatcher]\nwindow: 20")
    dispatcher.wait_for("queue worker_full refused a message")
    assert len(ground.foreign.collect("worker_counted", 100)) == 100
    assert sorted(message.body for message in ground.foreign.collect("worker_full", 3)) == [b"0", b"1", b"2"]
    assert dispatcher.stop() == 0
    assert ground.foreign.depth("taskqueue") == 0


def test_at_most_max_types_queues_are_made_for_new_types(ground: Ground) -> None:
    for queue in ("taskqueue", "worker_known"):
        ground.foreign.declare(queue)
    ground.start("dispatcher", "[dispatcher]\nmax_types: 2")
    for worker_type in ("a", "known", "b", "a"):
        ground.foreign.publish(b"", type=worker_type)
    wait_until(lambda: [ground.foreign.depth(f"worker_{name}") for name in ("a", "b", "known")] == [2, 1, 1])
    ground.foreign.publish(b"third", type="c")
    kept = ground.foreign.get("taskqueue_rejected")
    assert kept.headers["x-taskqueue-reason"] == (
        "queue worker_c does not exist, and max_types (2) queues have been created for new types"
    )
    assert kept.headers["x-taskqueue-original"]["type"] == "c"
    assert ground.foreign.depth("worker_c") is None
    ground.foreign.publish(b"", type="a")
    wait_until(lambda: ground.foreign.depth("worker_a") == 3)


def test_a_queue_is_declared_once_however_many_workitems_wait_for_it(ground: Ground) -> None:
    ground.foreign.declare("taskqueue")
    ground.foreign.publish_many((b"%d" % each for each in range(500)), type="newcomer")
    dispatcher = ground.start("dispatcher", "[dispatcher]\nwindow: 500")
    wait_until(lambda: ground.foreign.depth("worker_newcomer") == 500, 30)
    bodies = {message.body for message in ground.foreign.collect("worker_newcomer", 500)}
    assert len(bodies) == 500
    assert dispatcher.output().count("declared queue worker_newcomer") == 1


def test_a_format_plugin_is_used_only_when_it_is_named(ground: Ground) -> None:
    for queue in ("taskqueue", "worker_lined"):
        ground.foreign.declare(queue)
    first = ground.start("dispatcher")
    ground.foreign.publish(b"lined\nrest", content_type="application/x-first-line")
    reason = ground.foreign.get("taskqueue_rejected").headers["x-taskqueue-reason"]
    assert "content type 'application/x-first-line' is not one of application/json, text/plain" in reason
    assert first.stop() == 0
    ground.start("dispatcher", "[dispatcher]\nformats: application/x-first-line")
    ground.foreign.publish(b"lined\nrest", content_type="application/x-first-line")
    assert ground.foreign.get("worker_lined").body == b"rest"
    ground.foreign.publish(b"lined", content_type="application/x-first-line")
    reason = ground.foreign.get("taskqueue_rejected").headers["x-taskqueue-reason"]
    assert reason == "there is no second line"


def test_a_format_plugin_that_raises_rejects_the_message_and_the_dispatcher_lives_on(ground: Ground) -> None:
    for queue in ("taskqueue", "worker_lined"):
        ground.foreign.declare(queue)
    dispatcher = ground.start("dispatcher", "[dispatcher]\nformats: application/x-first-line")
    ground.foreign.publish(b"\xff\nrest", content_type="application/x-first-line")
    reason = ground.foreign.get("taskqueue_rejected").headers["x-taskqueue-reason"]
    assert reason.startswith("the format plugin for application/x-first-line failed: UnicodeDecodeError: ")
    ground.foreign.publish(b"lined\nrest", content_type="application/x-first-line")
    assert ground.foreign.get("worker_lined").body == b"rest"
    assert "ended:" not in dispatcher.output()


def test_a_format_that_is_not_installed_is_told_at_the_start(ground: Ground) -> None:
    dispatcher = ground.start(
        "dispatcher",
        "[dispatcher]\nformats: application/x-none",
        ready="no plugin 'application/x-none' is installed under taskqueue.formats; "
        "installed: application/x-first-line",
    )
    assert dispatcher.wait() == 65


@pytest.mark.parametrize("arguments", [FULL | {"x-max-length": 9}, {"x-queue-type": "quorum"}], ids=str)
def test_a_taskqueue_with_other_arguments_is_used_as_it_is(
    ground: Ground, arguments: dict[str, object]
) -> None:
    ground.foreign.declare("taskqueue", arguments=arguments)
    ground.foreign.declare("worker_good")
    dispatcher = ground.start("dispatcher")
    ground.foreign.publish(b"it", type="good")
    assert ground.foreign.get("worker_good").body == b"it"
    assert "ERROR" not in dispatcher.output()


def test_an_alarm_pauses_the_dispatcher_and_nothing_is_lost(
    ground: Ground, broker: Node, watcher: Foreign
) -> None:
    number = 10_000
    publish_numbers(ground, number)
    dispatcher = ground.start("dispatcher", "[dispatcher]\nwindow: 20")
    wait_until(lambda: watcher.depth("worker_counted") > 20)
    broker.set_alarm(on=True)
    try:
        dispatcher.wait_for("the broker has an alarm and accepts no messages")
        wait_until(lambda: watcher.consumers("taskqueue") == 0)  # what it cannot send on, it does not take
        assert watcher.depth("worker_counted") < number
    finally:
        broker.set_alarm(on=False)
    dispatcher.wait_for("the broker accepts messages again")
    arrived = {message.body for message in watcher.collect("worker_counted", number)}
    assert arrived == {b"%d" % each for each in range(number)}
    assert dispatcher.stop() == 0
    assert [watcher.depth(name) for name in ("taskqueue", "worker_counted")] == [0, 0]


def test_an_alarm_pauses_a_pool_and_nothing_is_lost(ground: Ground, broker: Node, watcher: Foreign) -> None:
    number = 1500
    ground.foreign.declare("worker_echo")
    ground.foreign.publish_many((b"%d" % each for each in range(number)), "worker_echo")
    pool = ground.start("workerpool", "[echo]\nworkers: 1\n[DEFAULT]\nworkers: 0")
    wait_until(lambda: (watcher.depth("results") or 0) > 20)
    broker.set_alarm(on=True)
    try:
        pool.wait_for("the broker has an alarm and accepts no messages")
        assert watcher.depth("results") < number
    finally:
        broker.set_alarm(on=False)
    pool.wait_for("the broker accepts messages again")
    ids = {result.body for result in watcher.collect("results", number)}
    assert ids == {b"%d" % each for each in range(number)}
    assert pool.stop() == 0
    assert [watcher.depth(name) for name in ("worker_echo", "results")] == [0, 0]


@pytest.mark.parametrize("command", ["dispatcher", "workerpool"])
def test_a_wrong_password_is_one_clear_line_and_the_end(ground: Ground, command: str) -> None:
    user, _, rest = ground.url.removeprefix("amqp://").partition("@")
    address = rest.partition("/")[0]
    wrong = f"amqp://{user.partition(':')[0]}:guessed@{rest}"
    daemon = ground.start(
        command, "[echo]\nworkers: 1\n[DEFAULT]\nworkers: 0", url=wrong, ready="wrong name or password"
    )
    assert daemon.wait() == 77
    line = f"the broker at {address} refused user 'taskqueue': wrong name or password"
    assert daemon.output().count(line) == 1
    assert "guessed" not in daemon.output()


@pytest.mark.parametrize("command", ["dispatcher", "workerpool"])
def test_a_virtual_host_that_is_missing_is_one_clear_line_and_the_end(ground: Ground, command: str) -> None:
    config = "[echo]\nworkers: 1\n[DEFAULT]\nworkers: 0"
    daemon = ground.start(
        command, config, url=ground.url + "-not", ready="refused user 'taskqueue' the virtual host"
    )
    assert daemon.wait() == 77


def test_daemons_wait_for_a_broker_that_is_absent_and_say_so(ground: Ground) -> None:
    with Proxy(ground.url) as line:
        line.refuse()
        config = "[echo]\nworkers: 1\n[DEFAULT]\nworkers: 0"
        waits = "cannot be reached: Connection refused; trying again"
        dispatcher = ground.start("dispatcher", config, url=line.url, ready=waits)
        pool = ground.start("workerpool", config, url=line.url, ready=waits)
        for daemon in (dispatcher, pool):
            daemon.wait_for("ready: ")  # a service manager must not wait for the broker
        line.accept()
        consumers(ground)
        ground.foreign.publish(b"echo at last", content_type="text/plain")
        assert ground.foreign.get("results").body == b"at last"
        assert dispatcher.output().count(waits) < 10


def test_instances_share_the_work(ground: Ground, broker: Node) -> None:
    ground.foreign.declare("worker_full", arguments=FULL)
    dispatcher = ground.start("dispatcher", "[dispatcher]\ninstances: 3\nwindow: 10")
    consumers(ground, 3)
    publish_numbers(ground, 500)
    bodies = [int(message.body) for message in ground.foreign.collect("worker_counted", 500)]
    assert sorted(bodies) == list(range(500))  # each went through one of them
    publish_numbers_to_full(ground, 50)
    wait_until(lambda: broker.unacknowledged(vhost_of(ground), "taskqueue") == 3 * 10)
    assert len(dispatchers(dispatcher.pid)) == 3
