"""The chaos suite in short: `make chaos` runs it at length."""

import pytest
from chaos.flows import SHARE
from chaos.plant import Plant
from chaos.report import report
from chaos.run import run
from chaos.schedule import schedule
from chaos.workload import HELD, LIMIT, TICK, workload

SEED = 20
WORKITEMS = 1000
FAULTS = 30
LONGEST_PAUSE = 0.3


@pytest.mark.timeout(200)
def test_every_workitem_is_accounted_for_whatever_is_killed_cut_and_restarted(
    python, site_directory, broker, amqp_url
):
    with Plant(python, site_directory, broker, amqp_url) as plant:
        faults = schedule(SEED, FAULTS, LONGEST_PAUSE)
        account, hits = run(plant, workload(SEED, WORKITEMS), faults, lambda *_: None)
        content = report(account, hits, SEED, 0, plant.foreign)
    assert [content[what] for what in ("lost", "wrong", "unexplained")] == [[], [], []]
    states = content["states"]
    further = [sum(states.pop(kind.name).values()) for kind in (HELD, TICK)]
    assert further[0] == 2 * LIMIT
    assert further[1] > FAULTS * LONGEST_PAUSE / 2
    assert (sum(map(sum, (each.values() for each in states.values()))), content["faults"]) == (
        WORKITEMS,
        FAULTS,
    )
    assert content["at_once"] == LIMIT
    assert content["workflows"] >= WORKITEMS // SHARE
    assert content["steps"]["1"] > 5 * content["workflows"]
    assert content["commands"]["obeyed"] >= 2  # what ends a drain or a number of workers is given until then
