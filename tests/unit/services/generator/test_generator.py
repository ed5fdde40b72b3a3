"""The generator's story, with a scripted model and a real Redis."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from services.generator.handler import Generator
from services.generator.reply import Reply
from shared.budget.tenant import TenantBudget
from shared.cache.answers import AnswerCache, Shelf
from shared.cache.redis import QuickRedis
from shared.contracts.answer import AnswerReady, CacheState, Code, Outcome
from shared.contracts.generate import GenerateAnswer
from shared.contracts.request import Request
from shared.errors import Reason, TryLater, Unprocessable
from shared.ledger.ledger import Ledger
from shared.llm.deployments import Deployment
from shared.llm.errors import ContextTooLong, ModelRefused
from tests.making import NOW, a_candidate, a_request, a_use_case
from tests.unit.services.generator.test_planner import a_deployment

GOOD = "New employees receive 21 days of annual leave per year [1]."
TWO = [
    a_deployment("small", 4000, priority=1, price={"input": 1.0, "output": 2.0}),
    a_deployment("other", 4000, priority=2),
]


class Script:
    """A model that says what it is told to, and remembers who asked."""

    def __init__(self, *says: str | Exception) -> None:
        self.says = list(says)
        self.called: list[str] = []
        self.prompts: list[int] = []

    async def complete(
        self, deployment: Deployment, messages: tuple[dict[str, str], ...], *, answer_tokens: int, within: timedelta
    ) -> Reply:
        self.called.append(deployment.name)
        self.prompts.append(sum(len(message["content"]) for message in messages))
        said = self.says.pop(0)
        if isinstance(said, Exception):
            raise said
        return Reply(said, prompt_tokens=1000, completion_tokens=50)


class Scene:
    def __init__(self, redis: QuickRedis) -> None:
        self.redis = redis
        self.cache, self.ledger = AnswerCache(redis), Ledger(redis)
        self.budget = TenantBudget(redis, lambda _tenant: 10_000)

    async def run(self, model: Script, attempt: int = 1, **changes: Any) -> AnswerReady:
        generator = Generator(
            use_cases={"onboarding": a_use_case()},
            deployments=TWO,
            model=model,
            ledger=self.ledger,
            budget=self.budget,
            cache=self.cache,
            clock=lambda: NOW,
        )
        [envelope] = await generator.handle(a_task(**changes), attempt)
        assert isinstance(envelope.message, AnswerReady)
        return envelope.message


def a_task(request: Request | None = None, candidates: int = 3, epoch: int | None = 0) -> GenerateAnswer:
    found = tuple(a_candidate(number) for number in range(1, candidates + 1))
    return GenerateAnswer(
        request=request or a_request(cache_key="k", use_case_version=a_use_case().version()),
        candidates=found,
        index_epoch=epoch,
    )


@pytest.fixture
def scene(redis: QuickRedis) -> Scene:
    return Scene(redis)


async def test_an_answer_carries_its_citations_usage_cost_and_plan(scene: Scene) -> None:
    answer = await scene.run(Script(GOOD))
    assert (answer.outcome, answer.code, answer.cache) == (Outcome.ANSWERED, Code.OK, CacheState.MISS)
    assert [citation.document for citation in answer.citations] == ["leave-1.md"]
    assert (answer.usage.prompt_tokens, answer.cost.amount) == (1000, 0.0011)
    assert answer.plan is not None
    assert (answer.plan.deployment, answer.plan.passages_used) == ("small", 3)


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ("NO_ANSWER", Code.NOT_IN_DOCUMENTS),
        ("You get 99 days [1].", Code.UNGROUNDED),
        ("I made this up.", Code.UNGROUNDED),
        ("", Code.UNGROUNDED),
    ],
)
async def test_there_is_never_an_ungrounded_answer(scene: Scene, said: str, code: Code) -> None:
    answer = await scene.run(Script(said))
    assert (answer.outcome, answer.code, answer.text) == (Outcome.NO_ANSWER, code, "")


async def test_the_result_is_kept_before_it_is_sent(scene: Scene) -> None:
    answer = await scene.run(Script(GOOD))
    entry = await scene.ledger.find("r1")
    assert entry is not None
    assert entry.answer == answer
    assert not entry.sent


async def test_a_busy_model_is_tried_again_later(scene: Scene) -> None:
    model = Script(TryLater("429", after=timedelta(seconds=3)))
    with pytest.raises(TryLater) as busy:
        await scene.run(model)
    assert busy.value.after == timedelta(seconds=3)
    assert model.called == ["small"]


@pytest.mark.parametrize(("attempt", "deployment"), [(1, "small"), (2, "small"), (3, "other"), (4, "other")])
async def test_after_its_tries_the_second_deployment_answers(scene: Scene, attempt: int, deployment: str) -> None:
    model = Script(GOOD)
    await scene.run(model, attempt)
    assert model.called == [deployment]


async def test_when_all_have_had_their_tries_there_is_a_clear_end(scene: Scene) -> None:
    with pytest.raises(Unprocessable) as end:
        await scene.run(Script(), attempt=5)
    assert end.value.reason is Reason.RETRIES_EXHAUSTED


async def test_a_model_that_asks_for_too_much_patience_is_left_at_once(scene: Scene) -> None:
    model = Script(TryLater("429", after=timedelta(seconds=59)), GOOD)
    answer = await scene.run(model)
    assert model.called == ["small", "other"]
    assert answer.outcome is Outcome.ANSWERED


async def test_a_prompt_that_was_estimated_too_small_is_shrunk_once(scene: Scene) -> None:
    model = Script(ContextTooLong("too long"), GOOD)
    long = tuple(a_candidate(n, text="word " * 400 + f"{20 + n} days", tokens=420) for n in range(1, 9))
    generator_task = GenerateAnswer(request=a_request(), candidates=(a_candidate(1), *long))
    generator = Generator(
        use_cases={"onboarding": a_use_case()},
        deployments=TWO,
        model=model,
        ledger=scene.ledger,
        budget=scene.budget,
        cache=scene.cache,
        clock=lambda: NOW,
    )
    await generator.handle(generator_task)
    assert model.prompts[1] < model.prompts[0]


async def test_what_the_provider_refuses_is_told(scene: Scene) -> None:
    answer = await scene.run(Script(ModelRefused("content filter")))
    assert (answer.outcome, answer.code) == (Outcome.FAILED, Code.MODEL_REFUSED)


async def test_no_model_is_called_after_the_deadline(scene: Scene) -> None:
    model = Script(GOOD)
    with pytest.raises(Unprocessable) as late:
        await scene.run(model, request=a_request(answer_by=NOW + timedelta(milliseconds=500)))
    assert late.value.reason is Reason.DEADLINE_EXCEEDED
    assert model.called == []


async def test_what_was_not_spent_is_given_back(scene: Scene) -> None:
    assert await scene.budget.reserve("tessolund", "r1", 9_000) is None
    await scene.run(Script(GOOD))
    assert await scene.budget.reserve("tessolund", "r2", 8_900) is None  # 10,000 - 1,050


STORING: list[tuple[str, Callable[[], dict[str, Any]], bool]] = [
    (GOOD, dict, True),
    ("NO_ANSWER", dict, True),
    ("made up", dict, False),
    (GOOD, lambda: {"epoch": None}, False),
    (GOOD, lambda: {"request": a_request()}, False),
    (GOOD, lambda: {"request": a_request(cache_key="k", use_case_version="of another release")}, False),
]


@pytest.mark.parametrize(("said", "changes", "stored"), STORING)
async def test_only_sure_answers_are_cached(
    scene: Scene, said: str, changes: Callable[[], dict[str, Any]], stored: bool
) -> None:
    await scene.run(Script(said), **changes())
    found = await scene.cache.find(Shelf("tessolund", "handbook"), "k")
    assert (found is not None) is stored


async def test_without_redis_an_answer_is_still_an_answer() -> None:
    away = Scene(QuickRedis("redis://127.0.0.1:1/0"))
    assert (await away.run(Script(GOOD))).outcome is Outcome.ANSWERED
