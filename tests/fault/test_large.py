"""Bodies and results as large as a broker can be told to take."""

from collections.abc import Iterator

import pytest
from support.node import Node
from support.waiting import wait_until

SIZE = 120_000_000  # bytes
LIMIT = "134217728"  # RabbitMQ 3's default, the most that it takes


@pytest.fixture(scope="module")
def broker(rabbitmq, node_directory) -> Iterator[Node]:
    """A broker that takes the largest messages."""
    with Node(node_directory / "roomy", max_message_size=LIMIT) as node:
        yield node


def test_workitems_and_results_of_120_megabytes_pass_one_after_another(site, work):
    dispatcher = site.dispatcher("[whoami]\nworkers: 1\n[huge]\nworkers: 1")
    pool = site.pool()
    for _ in range(2):
        work.foreign.publish(b"x" * SIZE, type="whoami", content_type="application/octet-stream")
    assert {result.status for result in work.results(2, 120).values()} == {"succeeded"}
    large = [work.dispatch("huge", {"bytes": SIZE}) for _ in range(2)]
    results = work.results(2, 120)
    assert set(results) == set(large)
    assert {len(result.value) for result in results.values()} == {SIZE}
    work.wait_until_empty("taskqueue", "worker_whoami", "worker_huge")
    assert (dispatcher.stop(), pool.stop()) == (0, 0)


def test_a_failed_workitem_of_120_megabytes_is_kept_whole(site, work):
    pool = site.pool("[stubborn]\nworkers: 1")
    work.foreign.declare("worker_stubborn")
    work.foreign.publish(
        b"x" * SIZE, "worker_stubborn", message_id="large", content_type="application/octet-stream"
    )
    assert work.result(60).status == "failed"
    wait_until(lambda: work.foreign.depth("taskqueue_failed"), 60)
    assert len(work.foreign.get("taskqueue_failed").body) == SIZE
    assert pool.stop() == 0


def test_a_result_that_no_worker_can_hand_over_is_a_failure(site, work):
    site.pool("[huge]\nworkers: 1")
    work.submit("huge", {"bytes": 170_000_000})
    result = work.result(60)
    assert result.status == "failed"
    assert "bytes; at most 166723584 can be sent" in result.error
