"""The ledger and the guard before an outcome leaves, where nothing else stands behind them; on a real Redis."""

from collections.abc import Awaitable, Callable

import pytest

from shared.cache.redis import QuickRedis
from shared.contracts.envelope import Envelope, to_caller
from shared.ledger.ledger import KEEP, Ledger
from shared.worker.outcomes import Outcomes
from tests.making import NOW, a_request
from tests.unit.shared.worker.test_worker_steps import an_answer


async def test_what_somebody_else_has_sent_meanwhile_is_not_sent_again(redis: QuickRedis) -> None:
    ledger, request, left = Ledger(redis), a_request(), list[Envelope]()

    async def send(envelope: Envelope) -> None:
        left.append(envelope)

    for number in range(3):
        envelope = to_caller(request, an_answer(request, f"answer {number}"), NOW)
        sent = await Outcomes(ledger).send(envelope, send)
        assert (sent is None) is (number > 0)
    [only] = left
    assert only.message == an_answer(request, "answer 0")


async def test_an_outcome_that_is_filed_does_not_replace_the_claimed_one(redis: QuickRedis) -> None:
    ledger, request = Ledger(redis), a_request()
    await ledger.claim(request, an_answer(request, "first"))
    await ledger.file(an_answer(request, "second"), "somebody", "else")
    entry = await ledger.find(request.request_id)
    assert entry is not None
    assert entry.answer == an_answer(request, "first")
    assert (entry.tenant, entry.caller) == (request.tenant, request.caller)


@pytest.mark.parametrize("how", ["accept", "claim", "cancel", "file"])
async def test_nothing_is_kept_for_ever(redis: QuickRedis, how: str) -> None:
    ledger, request = Ledger(redis), a_request()
    answer = an_answer(request)
    steps: dict[str, Callable[[], Awaitable[object]]] = {
        "accept": lambda: ledger.accept(request),
        "claim": lambda: ledger.claim(request, answer),
        "cancel": lambda: ledger.cancel(request.request_id, request.tenant, request.caller),
        "file": lambda: ledger.file(answer, request.tenant, request.caller),
    }
    await steps[how]()
    [key] = await redis.run(lambda connection: connection.keys("*"))
    left = await redis.run(lambda connection: connection.ttl(key))
    assert 0 < left <= KEEP.total_seconds()
