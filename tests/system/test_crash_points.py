"""A worker of each service is killed at one of its effects; each question still has one outcome.

`make crash-points` kills a worker at every effect.
"""

import logging
from collections import Counter
from pathlib import Path

import pytest

from tests.crash_points.run import Crashes, Planned, Result
from tests.crash_points.system import running
from tests.crash_points.trap import Moment

pytestmark = pytest.mark.timeout(900)

WORK = ("question", "document")
PAID = {
    # The model was paid, and only the process that dies knows it.
    ("models POST", Moment.AFTER): 2,
    # Its answer is the outcome in the ledger: the next delivery finds it there.
    ("redis ledger.DECIDE", Moment.AFTER): 1,
    ("bus complete generate.v1", Moment.BEFORE): 1,
}
"""Where the generator dies, and how many calls the question then costs."""
DEATHS = (
    ("gateway", "bus send retrieve.v1", Moment.AFTER),
    ("retriever", "bus send generate.v1", Moment.UNANSWERED),
    *(("generator", name, moment) for name, moment in PAID),
    ("indexer", "vectors PUT /collections/documents/", Moment.AFTER),
)


async def test_each_worker_dies_and_nothing_is_lost_told_twice_or_paid_more_often_than_it_must(tmp_path: Path) -> None:
    logging.getLogger("azure").setLevel(logging.CRITICAL)  # it tells of every connection that a kill has cut
    result = Result()
    async with running(tmp_path) as system:
        crashes = Crashes(system, print, alone=True)
        found = await crashes.discover(WORK)
        chosen = [_the_first(found, *death) for death in DEATHS]
        for each in chosen:  # one after the other: a crash must not hit another's call
            await system.stack.during(crashes.crash([each], result))
        await crashes.settle()
        crashes.judge(result)
        paid = Counter(call.question for call in system.paid())
    assert not result.unreached
    assert set(result.crashed) == set(chosen)
    assert not result.violations
    calls = {
        (planned.point.effect.name, planned.point.moment): paid[crashes.question_after(planned)]
        for planned in chosen
        if planned.point.effect.service == "generator"
    }
    assert list(calls.values()) == list(PAID.values())


def _the_first(found: list[Planned], service: str, name: str, moment: Moment) -> Planned:
    """Where `service` does first what begins with `name`."""
    return next(
        planned
        for planned in found
        if (planned.point.effect.service, planned.point.moment) == (service, moment)
        and planned.point.effect.name.startswith(name)
    )
