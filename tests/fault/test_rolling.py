"""Two loaded pools are restarted in turn, as an upgrade does it: nothing is lost, nothing runs twice."""

import pytest
from support.waiting import wait_until

WORKITEMS = 1500
ROUNDS = 2


@pytest.mark.parametrize("depth", [1, 5])
def test_a_rolling_restart_under_load_loses_and_doubles_nothing(site, work, depth):
    site.dispatcher(f"[good]\nworkers: 2\ndepth: {depth}")
    pools = [site.pool(), site.pool()]
    work.submit_numbers(range(WORKITEMS), seconds=0.004)
    for _ in range(ROUNDS):
        for number, pool in enumerate(pools):
            site.wait_for_ends(site.ends() + WORKITEMS // 12)
            assert pool.stop() == 0
            pools[number] = site.pool()
    wait_until(lambda: work.foreign.depth("results") == WORKITEMS, 60, lambda: work.foreign.depth("results"))
    assert [pool.stop() for pool in pools] == [0, 0]
    results = work.foreign.collect("results", WORKITEMS)
    assert len({message.properties["correlation_id"] for message in results}) == WORKITEMS
    assert [work.foreign.depth(queue) for queue in ("results", "worker_good", "taskqueue")] == [0, 0, 0]
    assert site.ends() == WORKITEMS
