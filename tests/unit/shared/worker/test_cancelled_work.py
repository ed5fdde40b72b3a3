"""What a worker does with work whose request was cancelled."""

import pytest

from shared.contracts.outcome import Outcome, RequestOutcome, cancelled
from shared.redis import FailFastRedis
from tests.support.builders import NOW, a_request
from tests.support.worker import WorkerFixture


@pytest.mark.parametrize("accepted", [True, False], ids=["claimed", "a tombstone"])
async def test_cancelled_work_is_not_done_and_its_caller_is_told_once(redis: FailFastRedis, accepted: bool) -> None:
    scene, request = WorkerFixture(redis), a_request()
    if accepted:
        await scene.ledger.accept(request)
        await scene.ledger.decide(request, cancelled(request, NOW))
    else:
        await scene.ledger.cancel(request.request_id, request.tenant, request.caller)
    for _ in range(2):
        await scene.worker().process(await scene.deliver(request))
        scene.bus._queue("retrieve").seen.clear()
        scene.bus._queue("answers").seen.clear()  # even if the broker forgot
    [reply] = await scene.queued("answers")
    assert RequestOutcome.decode(reply.body).outcome is Outcome.CANCELLED
    assert scene.calls == []
