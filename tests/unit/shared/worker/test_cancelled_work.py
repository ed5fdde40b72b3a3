"""What a worker does with work whose request was cancelled."""

import pytest

from shared.contracts.outcome import Outcome, RequestOutcome, cancelled
from shared.redis import FailFastRedis
from tests.support.builders import NOW, a_request
from tests.support.worker import WorkerFixture


@pytest.mark.parametrize("accepted", [True, False], ids=["claimed", "a tombstone"])
async def test_cancelled_work_is_not_done_and_its_caller_is_told_once(redis: FailFastRedis, accepted: bool) -> None:
    setup, request = WorkerFixture(redis), a_request()
    if accepted:
        await setup.ledger.accept(request)
        await setup.ledger.decide(request, cancelled(request, NOW))
    else:
        await setup.ledger.cancel(request.request_id, request.tenant, request.caller)
    for _ in range(2):
        await setup.worker().process(await setup.deliver(request))
        setup.bus._queue("retrieve").seen.clear()
        setup.bus._queue("answers").seen.clear()  # even if the broker forgot
    [reply] = await setup.queued("answers")
    assert RequestOutcome.decode(reply.body).outcome is Outcome.CANCELLED
    assert setup.calls == []
