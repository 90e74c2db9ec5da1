"""Two loaded pools are restarted in turn, as an upgrade does it: nothing is lost, nothing runs twice."""

import pytest

STEPS = 4
WORKITEMS = 400  # at each step


@pytest.mark.parametrize("depth", [1, 5])
def test_a_rolling_restart_under_load_loses_and_doubles_nothing(site, work, depth):
    site.dispatcher(f"[good]\nworkers: 2\nmax_prefetch: {depth}")
    pools = [site.pool(), site.pool()]
    for step in range(STEPS):
        work.submit_numbers(range(step * WORKITEMS, (step + 1) * WORKITEMS), seconds=0.004)
        site.wait_for_ends(step * WORKITEMS + WORKITEMS // 4)
        assert pools[step % 2].stop() == 0
        pools[step % 2] = site.pool()
    results = work.foreign.collect("results", STEPS * WORKITEMS, 60)
    assert [pool.stop() for pool in pools] == [0, 0]
    assert len({message.properties["correlation_id"] for message in results}) == STEPS * WORKITEMS
    assert [work.foreign.depth(queue) for queue in ("results", "worker_good", "taskqueue")] == [0, 0, 0]
    assert site.ends() == STEPS * WORKITEMS
