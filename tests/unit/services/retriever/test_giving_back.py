"""Tokens that were reserved for a model call are given back when there is none."""

from collections.abc import Sequence

import pytest

from services.retriever.main import giving_back
from shared.budget.tenant import TenantBudget
from shared.contracts.envelope import Envelope, to_caller, to_generator
from shared.contracts.generate import GenerateAnswer
from shared.contracts.outcome import Code, Outcome, ending
from shared.contracts.retrieve import RetrievePassages
from shared.redis import FailFastRedis
from tests.support.builders import NOW, a_request


@pytest.mark.parametrize("found", [True, False])
async def test_tokens_stay_reserved_only_while_a_model_may_be_called(redis: FailFastRedis, found: bool) -> None:
    budget, request = TenantBudget(redis, lambda _tenant: 1000), a_request()
    assert await budget.reserve("tessolund", "r1", 1000) is None

    async def handle(task: RetrievePassages, attempt: int) -> Sequence[Envelope]:
        if found:
            return [to_generator(GenerateAnswer(request=request, candidates=()))]
        return [to_caller(request, ending(request, Outcome.NO_ANSWER, Code.NOT_IN_DOCUMENTS), NOW)]

    await giving_back(handle, budget)(RetrievePassages(request=request), 1)
    again = await budget.reserve("tessolund", "r2", 1000)
    assert (again is None) is not found
