"""The generator's story, with a scripted model and a real Redis."""

import asyncio
import re
from collections.abc import Awaitable, Callable, Coroutine
from datetime import timedelta
from typing import Any

import pytest

from services.generator.breakers import DeploymentBreakers
from services.generator.call_times import Call, CallTimes
from services.generator.calls import ModelCalls
from services.generator.failover import MOST_IN_VAIN
from services.generator.handler import Generator
from services.generator.reply import CallTimeout, Cancelled, NoAnswer, Reply
from shared.answer_cache import AnswerCache, CachePartition
from shared.budget.tenant import TenantBudget
from shared.contracts.fit import LARGEST_OUTCOME
from shared.contracts.generate import Candidate, GenerateAnswer
from shared.contracts.outcome import CacheState, Code, Outcome, RequestOutcome, cancelled
from shared.contracts.request import Request
from shared.errors import DependencyDown, OverQuota, Reason, TryLater, Unprocessable
from shared.ledger.ledger import Ledger
from shared.llm.deployments import Deployment
from shared.llm.errors import (
    ContextTooLong,
    InvalidReply,
    ModelDown,
    ModelMisconfigured,
    ModelRefused,
    Throttled,
    Used,
)
from shared.pacing.pacing import Pacing
from shared.pacing.scripts import keys
from shared.redis import FailFastRedis
from shared.settings.budget import TENANT, Limit, Unit, Window
from shared.text import visible
from shared.worker.shared_breaker import Circuit
from tests.support.budget import a_budget, gone, hold, spend
from tests.support.builders import NOW, a_candidate, a_deployment, a_request, a_use_case
from tests.support.ports import wired

SILENCE = "says nothing until it is stopped"
GOOD = "New employees receive 21 days of annual leave per year [1]."
TWO = [
    a_deployment("small", 4000, priority=1, price={"input": 1.0, "output": 2.0}),
    a_deployment("other", 4000, priority=2),
]


Happening = Callable[[], Awaitable[None]]


class Script:
    """A model that says what it is told to, and remembers who asked. Things may happen before it says something."""

    def __init__(self, *says: "str | Reply | Exception | Happening") -> None:
        self.says = list(says)
        self.heard: list[str] = []
        self.called: list[str] = []
        self.prompts: list[int] = []
        self.limits: list[int] = []
        self.within: list[timedelta] = []

    async def complete(
        self,
        deployment: Deployment,
        messages: tuple[dict[str, str], ...],
        *,
        answer_tokens: int,
        within: timedelta,
        cancelled: Callable[[], Coroutine[Any, Any, None]],
        schema: Any = None,
    ) -> Reply:
        self.called.append(deployment.name)
        self.within.append(within)
        self.heard.append(messages[-1]["content"])
        self.limits.append(answer_tokens)
        self.prompts.append(sum(len(message["content"]) for message in messages))
        said = self.says.pop(0)
        while callable(said):
            await said()
            said = self.says.pop(0)
        if said == SILENCE:
            await cancelled()
            raise Cancelled(used=Used(600))
        if isinstance(said, Exception):
            raise said
        if isinstance(said, Reply):
            return said
        return Reply(said, prompt_tokens=1000, completion_tokens=50)


class GeneratorFixture:
    def __init__(self, redis: FailFastRedis) -> None:
        self.redis, self.now = redis, NOW
        self.call_times = CallTimes()
        self.use_case, self.deployments = a_use_case(), TWO
        self.cache, self.ledger = AnswerCache(redis), Ledger(redis)
        self.budget = a_budget(redis, 10_000)
        self.breakers = DeploymentBreakers(redis, ["small", "other"])

    async def cancel(self) -> None:
        request = a_request()
        await self.ledger.decide(request, cancelled(request, NOW))
        await self.budget.give_back(request)

    async def left(self) -> int:
        """Of 10,000 tokens, without what was refilled since."""
        return 10_000 - await gone(self.redis)

    async def wait(self) -> None:
        self.now += timedelta(seconds=1)

    def calls(self, model: Script) -> ModelCalls:
        return ModelCalls(
            model=model,
            ledger=self.ledger,
            budget=self.budget,
            call_times=self.call_times or CallTimes(),
            breakers=self.breakers,
            pacing=Pacing(self.redis),
            clock=wired(lambda: self.now),
            poll_interval=timedelta(milliseconds=10),
        )

    async def run(
        self, model: Script, attempt: int = 1, passages: tuple[Candidate, ...] = (), **changes: Any
    ) -> RequestOutcome:
        generator = Generator(
            use_cases={"onboarding": self.use_case},
            deployments=self.deployments,
            calls=self.calls(model),
            ledger=self.ledger,
            budget=self.budget,
            cache=self.cache,
            clock=wired(lambda: self.now),
        )
        task = a_task(**changes)
        if passages:
            task = task.model_copy(update={"candidates": passages})
        [envelope] = await generator.handle(task, attempt)
        assert isinstance(envelope.message, RequestOutcome)
        return envelope.message


def a_task(request: Request | None = None, candidates: int = 3, epoch: int | None = 0) -> GenerateAnswer:
    found = tuple(a_candidate(number) for number in range(1, candidates + 1))
    return GenerateAnswer(
        request=request or a_request(cache_key="k", use_case_version=a_use_case().version()),
        candidates=found,
        index_epoch=epoch,
    )


@pytest.fixture
def setup(redis: FailFastRedis) -> GeneratorFixture:
    return GeneratorFixture(redis)


async def test_an_answer_carries_its_citations_usage_cost_and_plan(setup: GeneratorFixture) -> None:
    answer = await setup.run(Script(GOOD))
    assert (answer.outcome, answer.code, answer.cache) == (Outcome.ANSWERED, Code.OK, CacheState.MISS)
    assert [citation.path for citation in answer.citations] == ["leave-1.md"]
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
async def test_there_is_never_an_ungrounded_answer(setup: GeneratorFixture, said: str, code: Code) -> None:
    answer = await setup.run(Script(said))
    assert (answer.outcome, answer.code, answer.text) == (Outcome.NO_ANSWER, code, "")


@pytest.mark.parametrize(
    ("grounding", "text", "flagged"),
    [
        ("flag", f"Hello there. {GOOD[:-5]}. [1] Pay doubles.", ["Hello there.", "Pay doubles."]),
        ("drop", f"{GOOD[:-5]}. [1]", []),
        ("refuse", "", []),
    ],
)
async def test_a_use_case_decides_what_becomes_of_unverified_sentences(
    setup: GeneratorFixture, grounding: str, text: str, flagged: list[str]
) -> None:
    setup.use_case = a_use_case(grounding=grounding)
    answer = await setup.run(Script(f"Hello there. {GOOD} Pay doubles."))
    assert answer.text == text
    assert [answer.text[span.start : span.end] for span in answer.unverified] == flagged
    assert answer.code is (Code.OK if text else Code.UNGROUNDED)
    assert (await setup.run(Script(GOOD), request=a_request(request_id="r2"))).outcome is Outcome.ANSWERED


async def test_an_answer_that_repeats_its_instructions_is_withheld(setup: GeneratorFixture) -> None:
    setup.use_case = a_use_case(prompt="Answer from the passages. The code word is KESTREL-4471.")
    answer = await setup.run(Script(f"{GOOD} By the way: kestrel-4471."))
    assert (answer.outcome, answer.code, answer.text) == (Outcome.NO_ANSWER, Code.PROMPT_LEAK, "")
    assert (answer.citations, answer.unverified) == ((), ())
    assert await setup.cache.find(CachePartition("tessolund", "handbook"), "k") is None


async def test_what_is_active_in_an_answer_does_not_reach_a_caller(setup: GeneratorFixture) -> None:
    answer = await setup.run(Script(f"\x1b[31m{GOOD} ![x](https://evil.example/?q=1) java[9]script:alert(1)"))
    assert answer.text == "New employees receive 21 days of annual leave per year. [1] x …"


async def test_the_result_is_kept_before_it_is_sent(setup: GeneratorFixture) -> None:
    answer = await setup.run(Script(GOOD))
    entry = await setup.ledger.find("r1")
    assert entry is not None
    assert entry.answer == answer
    assert not entry.delivered


async def test_when_all_models_are_busy_the_work_comes_back_when_it_is_its_turn(setup: GeneratorFixture) -> None:
    model = Script(throttled(5), throttled(3))
    with pytest.raises(OverQuota) as busy:
        await setup.run(model)
    assert busy.value.after.total_seconds() == pytest.approx(3, abs=0.5)
    assert model.called == ["small", "other"]


@pytest.mark.parametrize(
    ("attempt", "deployment"), [(1, "small"), (2, "small"), (3, "other"), (4, "other"), (5, "small")]
)
async def test_after_its_tries_the_second_deployment_answers(
    setup: GeneratorFixture, attempt: int, deployment: str
) -> None:
    model = Script(GOOD)
    await setup.run(model, attempt)
    assert model.called == [deployment]


DOWN, BROKEN_KEY = DependencyDown("503"), Unprocessable(Reason.UNAUTHORIZED, "key")


def throttled(seconds: float) -> Throttled:
    return Throttled("429", after=timedelta(seconds=seconds))


async def test_a_deployment_that_is_down_is_left_at_once(setup: GeneratorFixture) -> None:
    model = Script(DOWN, GOOD)
    await setup.run(model)
    assert model.called == ["small", "other"]


@pytest.mark.parametrize(
    ("says", "kind", "after"),
    [
        ([DOWN, DOWN], DependencyDown, 0),
        ([DependencyDown("503", after=timedelta(seconds=9)), DependencyDown("503", after=timedelta(seconds=4))],
         DependencyDown, 4),
        ([BROKEN_KEY, DOWN], DependencyDown, 0),
        ([DOWN, BROKEN_KEY], DependencyDown, 0),
        ([DOWN, throttled(3)], OverQuota, 3),
        ([throttled(50), DOWN], OverQuota, 50),
        ([throttled(50), throttled(40)], OverQuota, 40),
        ([throttled(50), BROKEN_KEY], OverQuota, 50),
        ([throttled(500), DOWN], DependencyDown, 0),
    ],
)  # fmt: skip
async def test_several_failures_together_mean_the_earliest_retry(
    setup: GeneratorFixture, says: list[Exception], kind: type[TryLater], after: float
) -> None:
    with pytest.raises(TryLater) as failure:
        await setup.run(Script(*says))
    assert type(failure.value) is kind
    assert failure.value.after.total_seconds() == pytest.approx(after, abs=0.5)


async def test_a_hanging_first_deployment_leaves_the_next_its_usual_call(setup: GeneratorFixture) -> None:
    model = Script(CallTimeout("hung"), GOOD)
    answer = await setup.run(model)
    assert answer.outcome is Outcome.ANSWERED
    # Nothing is known of either: each has half of what is left of 60 s.
    assert model.within == [timedelta(seconds=29.5), timedelta(seconds=59)]


async def test_over_quota_the_next_deployment_is_called_at_once(setup: GeneratorFixture) -> None:
    setup.deployments = [TWO[0].model_copy(update={"tokens_per_minute": 600, "reserved": True}), TWO[1]]
    model = Script(GOOD, GOOD)
    await setup.run(model)
    await setup.run(model, request=a_request(request_id="r2"))
    assert model.called == ["small", "other"]


async def test_what_has_quota_at_no_deployment_waits_where_its_turn_is_first(setup: GeneratorFixture) -> None:
    small, other = TWO
    setup.deployments = [
        small.model_copy(update={"tokens_per_minute": 600}),
        other.model_copy(update={"tokens_per_minute": 1_200}),
    ]
    await setup.run(Script(GOOD))
    await setup.run(Script(GOOD), request=a_request(request_id="r2"))
    later = a_request(request_id="r3", answer_by=NOW + timedelta(seconds=600))
    with pytest.raises(OverQuota, match="other: the quota is used up") as over:
        await setup.run(Script(), request=later)
    assert over.value.fits


async def test_a_second_refusal_at_its_turn_is_no_end(setup: GeneratorFixture) -> None:
    """The provider's count differs from ours for a moment; the request has a minute left."""
    setup.deployments = TWO[:1]
    model = Script(throttled(0.000001), throttled(5))
    with pytest.raises(TryLater) as busy:
        await setup.run(model)
    assert model.called == ["small", "small"]
    assert busy.value.after >= timedelta(seconds=5)


async def test_what_was_bought_in_vain_is_not_bought_again_at_its_turn(setup: GeneratorFixture) -> None:
    empty = NoAnswer(Code.EMPTY_ANSWER, "nothing", Used(900, 0))
    with pytest.raises(OverQuota) as busy:
        await setup.run(Script(empty, throttled(3)))
    assert busy.value.counts
    model = Script(throttled(3))
    with pytest.raises(OverQuota) as again:
        await setup.run(model, attempt=2)
    assert model.called == []
    assert not again.value.counts


async def test_a_prompt_that_was_too_long_is_not_sent_again_at_its_turn(setup: GeneratorFixture) -> None:
    setup.deployments = [TWO[0].model_copy(update={"tokens_per_minute": 1_000})]
    long = Script(ContextTooLong("4,100 tokens"))
    passages = tuple(a_candidate(number) for number in range(1, 40))
    with pytest.raises(OverQuota) as busy:
        await setup.run(long, passages=passages, request=a_request(answer_by=NOW + timedelta(hours=1)))
    assert busy.value.counts
    setup.deployments = TWO[:1]
    await setup.redis.run(lambda redis: redis.delete(*keys("small")))
    short = Script(GOOD)
    await setup.run(short, attempt=2, passages=passages, request=a_request(answer_by=NOW + timedelta(hours=1)))
    assert short.prompts[0] < long.prompts[0]


async def test_what_has_no_quota_in_time_is_refused_and_costs_nothing(setup: GeneratorFixture) -> None:
    setup.deployments = [TWO[0].model_copy(update={"tokens_per_minute": 600})]
    await setup.run(Script(GOOD))
    hasty = a_request(request_id="r2", answer_by=NOW + timedelta(seconds=10))
    refused = await setup.run(Script(), request=hasty)
    assert (refused.outcome, refused.code, refused.retryable) == (Outcome.REFUSED, Code.OVERLOADED, True)
    assert refused.retry_after is not None
    assert 90 <= refused.retry_after <= 145  # 450 tokens too many were used, and the ask has ten seconds


async def test_one_dead_deployment_does_not_hold_up_the_work_of_another(setup: GeneratorFixture) -> None:
    setup.use_case = a_use_case(deployments=("small",))
    for number in range(5):
        with pytest.raises(DependencyDown):
            await setup.run(Script(DOWN), request=a_request(request_id=f"r{number}"))
    with pytest.raises(TryLater, match="circuit breaker is open"):
        await setup.run(Script(), request=a_request(request_id="r5"))
    setup.use_case = a_use_case(deployments=("other",))
    answer = await setup.run(Script(GOOD), request=a_request(request_id="r6"))
    assert answer.outcome is Outcome.ANSWERED
    assert await setup.breakers.ask() is Circuit.CLOSED


async def test_when_no_deployment_can_be_used_the_task_is_unprocessable(setup: GeneratorFixture) -> None:
    with pytest.raises(Unprocessable) as end:
        await setup.run(Script(BROKEN_KEY, BROKEN_KEY))
    assert end.value.reason is Reason.UNAUTHORIZED


@pytest.mark.parametrize("last", [True, False])
async def test_an_operators_mistake_is_not_hidden_by_a_window_that_is_too_small(
    setup: GeneratorFixture, last: bool
) -> None:
    says = [ContextTooLong("4,100 tokens"), ContextTooLong("4,100 tokens"), ModelMisconfigured("key")]
    with pytest.raises(ModelMisconfigured):
        await setup.run(Script(*(says if last else says[::-1])))


async def test_a_model_that_asks_for_a_long_wait_is_left_at_once(setup: GeneratorFixture) -> None:
    model = Script(throttled(59), GOOD)
    answer = await setup.run(model)
    assert model.called == ["small", "other"]
    assert answer.outcome is Outcome.ANSWERED


async def test_a_prompt_that_was_estimated_too_small_is_shrunk_once(setup: GeneratorFixture) -> None:
    model = Script(ContextTooLong("too long"), GOOD)
    long = tuple(a_candidate(n, text="word " * 400 + f"{20 + n} days", tokens=420) for n in range(1, 9))
    generator_task = GenerateAnswer(request=a_request(), candidates=(a_candidate(1), *long))
    generator = Generator(
        use_cases={"onboarding": a_use_case()},
        deployments=TWO,
        calls=setup.calls(model),
        ledger=setup.ledger,
        budget=setup.budget,
        cache=setup.cache,
        clock=lambda: NOW,
    )
    await generator.handle(generator_task)
    assert model.prompts[1] < model.prompts[0]


@pytest.mark.parametrize(("max_output", "limit"), [(None, 1400), (1200, 1200)])
async def test_a_model_may_reason_beside_the_answer(
    setup: GeneratorFixture, max_output: int | None, limit: int
) -> None:
    reasons = {"dialect": "reasoning", "reasoning_tokens": 1000, "max_output": max_output}
    setup.deployments = [a_deployment("small", 4000, **reasons)]
    model = Script(GOOD)
    assert (await setup.run(model)).outcome is Outcome.ANSWERED
    assert model.limits == [limit]


async def test_a_prompt_far_below_the_window_that_is_claimed_is_shrunk_too(setup: GeneratorFixture) -> None:
    model = Script(ContextTooLong("the context is 150 tokens"), GOOD)
    assert (await setup.run(model)).outcome is Outcome.ANSWERED
    assert model.prompts[1] < model.prompts[0] < 4000


async def test_a_window_without_room_for_a_passage_is_not_an_answer_that_the_documents_lack(
    setup: GeneratorFixture,
) -> None:
    setup.deployments = [a_deployment("other", 8000), a_deployment("small", 4000)]
    setup.use_case = a_use_case(context_window=8000)
    long = (a_candidate(1, tokens=3500),)
    answered = await setup.run(Script(GOOD), passages=long)
    with pytest.raises(TryLater):  # the large one is busy, and the small one has no room
        await setup.run(Script(throttled(50)), passages=long, request=a_request(request_id="r2"))
    assert (answered.outcome, answered.plan and answered.plan.deployment) == (Outcome.ANSWERED, "other")
    setup.deployments = [a_deployment("small", 4000)]
    failed = await setup.run(Script(), passages=long)
    assert (failed.outcome, failed.code, failed.finished_at) == (Outcome.FAILED, Code.NO_MODEL_FITS, NOW)
    assert failed.message == "no passage fits into the 4000 tokens of small"


@pytest.mark.parametrize("code", [Code.EMPTY_ANSWER, Code.REASONING_ONLY, Code.TOOL_CALLED])
async def test_a_reply_without_an_answer_is_bought_once_at_each_deployment(setup: GeneratorFixture, code: Code) -> None:
    model = Script(NoAnswer(code, "small: none", Used(500)), NoAnswer(code, "other: none", Used(300)))
    answer = await setup.run(model)
    assert (answer.outcome, answer.code, answer.retryable) == (Outcome.FAILED, code, False)
    assert [(call.deployment, call.result, call.prompt_tokens) for call in answer.calls] == [
        ("small", code, 500),
        ("other", code, 300),
    ]
    assert await setup.left() == 10_000 - 800


async def test_another_deployment_may_answer_what_one_does_not(setup: GeneratorFixture) -> None:
    model = Script(NoAnswer(Code.EMPTY_ANSWER, "small: none", Used(500)), ModelDown("other: away"))
    with pytest.raises(DependencyDown):
        await setup.run(model)
    again = Script(GOOD)
    assert (await setup.run(again, attempt=2)).code is Code.OK
    assert again.called == ["other"]


async def test_calls_that_break_off_alike_are_not_paid_until_the_deadline(setup: GeneratorFixture) -> None:
    most = MOST_IN_VAIN[Code.INVALID_REPLY]
    for attempt in range(1, most + 1):
        model = Script(InvalidReply("it was cut", used=Used(100)), InvalidReply("it was cut", used=Used(100)))
        with pytest.raises(DependencyDown):
            await setup.run(model, attempt=attempt)
    answer = await setup.run(Script(), attempt=most + 1)
    assert (answer.outcome, answer.code) == (Outcome.FAILED, Code.INVALID_REPLY)
    assert "look at the server" in answer.message
    assert await setup.left() == 10_000 - 2 * most * 100


async def test_a_filtered_answer_and_a_declined_one_have_codes_of_their_own(setup: GeneratorFixture) -> None:
    filtered = await setup.run(Script(ModelRefused("filtered", filtered=True, used=Used(600))))
    assert (filtered.outcome, filtered.code) == (Outcome.FAILED, Code.CONTENT_FILTERED)
    declined = await setup.run(Script(ModelRefused("I can't help")), request=a_request(request_id="another"))
    assert (declined.outcome, declined.code) == (Outcome.FAILED, Code.MODEL_REFUSED)


async def test_a_refusal_of_the_provider_is_the_outcome_and_is_charged(setup: GeneratorFixture) -> None:
    assert await hold(setup.budget, 4_000, "r1") is None
    answer = await setup.run(Script(ModelRefused("content filter", used=Used(600))))
    assert (answer.outcome, answer.code, answer.finished_at) == (Outcome.FAILED, Code.MODEL_REFUSED, NOW)
    assert await setup.left() == 10_000 - 600


async def test_when_no_deployment_may_answer_the_outcome_says_why(setup: GeneratorFixture) -> None:
    setup.use_case = a_use_case(regions=("northeurope",))
    answer = await setup.run(Script())
    assert (answer.outcome, answer.code, answer.retryable) == (Outcome.FAILED, Code.NO_MODEL_FITS, False)
    assert answer.finished_at == NOW
    assert answer.message.endswith("allows the regions northeurope, but small is in westeurope, other is in westeurope")


async def test_no_model_is_called_after_the_deadline(setup: GeneratorFixture) -> None:
    model = Script(GOOD)
    with pytest.raises(Unprocessable) as late:
        await setup.run(model, request=a_request(answer_by=NOW + timedelta(milliseconds=500)))
    assert late.value.reason is Reason.DEADLINE_EXCEEDED
    assert model.called == []


async def test_unspent_tokens_are_given_back(setup: GeneratorFixture) -> None:
    assert await hold(setup.budget, 9_000, "r1") is None
    await setup.run(Script(GOOD))
    assert await hold(setup.budget, 8_900, "r2") is None  # 10,000 - 1,050


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
    setup: GeneratorFixture, said: str, changes: Callable[[], dict[str, Any]], stored: bool
) -> None:
    await setup.run(Script(said), **changes())
    found = await setup.cache.find(CachePartition("tessolund", "handbook"), "k")
    assert (found is not None) is stored


async def test_without_redis_an_answer_is_still_an_answer() -> None:
    away = GeneratorFixture(FailFastRedis("redis://127.0.0.1:1/0"))
    assert (await away.run(Script(GOOD))).outcome is Outcome.ANSWERED


# -- cancelled


async def test_a_cancelled_request_is_not_paid_for(setup: GeneratorFixture) -> None:
    await setup.cancel()
    model = Script(GOOD)
    assert (await setup.run(model)).outcome is Outcome.CANCELLED
    assert model.called == []


async def test_a_request_cancelled_between_two_deployments_is_not_paid_for_at_the_second(
    setup: GeneratorFixture,
) -> None:
    model = Script(setup.cancel, DOWN, GOOD)
    assert (await setup.run(model)).outcome is Outcome.CANCELLED
    assert model.called == ["small"]


@pytest.mark.parametrize("tombstone", [False, True], ids=["claimed", "tombstone"])
async def test_an_answer_that_is_cancelled_is_stopped_and_what_it_used_is_charged(
    setup: GeneratorFixture, tombstone: bool
) -> None:
    async def buried() -> None:
        await setup.ledger.cancel("r1", "tessolund", "welcome-app")

    assert await hold(setup.budget, 4_000, "r1") is None
    stopped = Script(buried if tombstone else setup.cancel, SILENCE)
    assert (await setup.run(stopped)).outcome is Outcome.CANCELLED
    assert await setup.left() == 10_000 - 600


async def test_an_answer_that_was_complete_when_it_was_cancelled_is_charged(setup: GeneratorFixture) -> None:
    assert await hold(setup.budget, 4_000, "r1") is None
    await setup.run(Script(setup.cancel, GOOD))
    entry = await setup.ledger.find("r1")
    assert entry is not None
    assert entry.answer is not None
    assert entry.answer.outcome is Outcome.CANCELLED
    assert await setup.left() == 10_000 - 1_050


async def test_a_call_that_ends_with_the_deadline_is_charged(setup: GeneratorFixture) -> None:
    assert await hold(setup.budget, 4_000, "r1") is None
    with pytest.raises(Unprocessable) as late:
        await setup.run(
            Script(setup.wait, CallTimeout("slow", used=Used(700))),
            request=a_request(answer_by=NOW + timedelta(seconds=1.5)),
        )
    assert late.value.reason is Reason.DEADLINE_EXCEEDED
    assert await setup.left() == 10_000 - 700


async def test_a_call_that_times_out_early_is_repeated_at_another_deployment(setup: GeneratorFixture) -> None:
    assert await hold(setup.budget, 4_000, "r1") is None
    model = Script(CallTimeout("slow", used=Used(700)), GOOD)
    assert (await setup.run(model)).outcome is Outcome.ANSWERED
    assert model.called == ["small", "other"]
    assert await setup.left() == 10_000 - 700 - 1_050


async def test_without_redis_nothing_counts_as_cancelled() -> None:
    away = GeneratorFixture(FailFastRedis("redis://127.0.0.1:1/0"))
    model = Script(DOWN, GOOD)
    assert (await away.run(model)).outcome is Outcome.ANSWERED
    assert model.called == ["small", "other"]


# -- not enough time


class Watch:
    """A clock of call times that is set by hand."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def known_calls(watch: Watch, request: Request | None = None, **took: float) -> CallTimes:
    """Deployments whose calls for requests like `request` have often taken this many seconds."""
    times = CallTimes(watch)
    for deployment, seconds in took.items():
        for _ in range(20):
            watch.now = 0
            call = times.begin(deployment, request or a_request(), timedelta(hours=1))
            assert call is not None
            watch.now = seconds
            times.ended(call)
    return times


async def test_a_call_that_cannot_finish_in_time_is_not_made_and_costs_nothing(setup: GeneratorFixture) -> None:
    assert await hold(setup.budget, 4_000, "r1") is None
    setup.call_times = known_calls(Watch(), small=20, other=20)
    model = Script()
    answer = await setup.run(model, request=a_request(answer_by=NOW + timedelta(seconds=19)))
    assert (answer.outcome, answer.code, answer.retryable) == (Outcome.REFUSED, Code.OVERLOADED, True)
    assert answer.retry_after is not None
    assert answer.retry_after > 0
    assert model.called == []
    assert await setup.left() == 10_000


async def test_a_deployment_that_is_quick_enough_takes_the_place_of_a_slow_one(setup: GeneratorFixture) -> None:
    setup.call_times = known_calls(Watch(), small=20, other=3)
    model = Script(GOOD)
    answer = await setup.run(model, request=a_request(answer_by=NOW + timedelta(seconds=19)))
    assert answer.outcome is Outcome.ANSWERED
    assert model.called == ["other"]


@pytest.mark.parametrize("slow", [a_request(tenant="larkfield"), a_request(use_case="reports")])
async def test_long_answers_of_one_tenant_or_use_case_do_not_count_against_another(
    setup: GeneratorFixture, slow: Request
) -> None:
    setup.call_times = known_calls(Watch(), slow, small=20, other=20)
    request = a_request(answer_by=NOW + timedelta(seconds=19))
    assert (await setup.run(Script(GOOD), request=request)).outcome is Outcome.ANSWERED


async def test_long_answers_of_others_do_not_keep_a_refused_call_from_being_probed() -> None:
    times = known_calls(watch := Watch(), small=20)
    running, tried = list[Call](), list[float]()
    for _ in range(100):
        watch.now += 1
        patient = times.begin("small", a_request(), timedelta(hours=1))
        assert patient is not None
        running.append(patient)
        if running[0].began == watch.now - 20:
            times.ended(running.pop(0))
        if times.begin("small", a_request(), timedelta(seconds=14)) is not None:
            tried.append(watch.now)
    assert 10 <= len(tried) <= 20


async def test_calls_that_the_deadline_cuts_off_are_not_repeated_endlessly(setup: GeneratorFixture) -> None:
    setup.call_times = CallTimes(watch := Watch())
    model = Script()

    async def one() -> str:
        watch.now = 0  # all at once
        try:
            answer = await setup.run(model, request=a_request(request_id=f"r{watch.now}"))
        except Unprocessable as cut_off:
            return cut_off.reason
        finally:
            setup.now = NOW
        return answer.code

    async def until_the_deadline() -> None:
        watch.now = 59
        setup.now = NOW + timedelta(seconds=59.5)

    model.says = [said for _ in range(20) for said in (until_the_deadline, CallTimeout("slow"))]
    ended = [await one() for _ in range(4)]
    # One call finds out about each deployment.
    assert ended == [Reason.DEADLINE_EXCEEDED, Reason.DEADLINE_EXCEEDED, Code.OVERLOADED, Code.OVERLOADED]
    assert model.called == ["small", "other"]


HIDDEN = "\u034f\u200b\u202e\u2066\u3164\ufe0f\ue000\x07\x1b\x9b\x00\ud800\U000e0068\U000e0069"


@pytest.mark.parametrize("hidden", [HIDDEN, *HIDDEN])
async def test_invisible_characters_do_not_reach_a_caller(setup: GeneratorFixture, hidden: str) -> None:
    answer = await setup.run(
        Script(f"New emp{hidden}loyees receive 21 days{hidden} of annual leave [{hidden}1]{hidden}.")
    )
    assert (answer.outcome, answer.text) == (Outcome.ANSWERED, "New employees receive 21 days of annual leave. [1]")


async def test_invisible_characters_in_an_older_index_do_not_reach_a_caller(setup: GeneratorFixture) -> None:
    said = "New employees receive 21 da\u00adys\u2066 of annual leave per year"
    old = a_candidate(1, title="Le\u200bave", section="An\u202enual", path="a\u202eb.md", text=said)
    [citation] = (await setup.run(Script(GOOD), passages=(old,))).citations
    assert (citation.title, citation.section, citation.path) == ("Leave", "Annual", "a\\u202eb.md")
    assert visible(citation.quote) == citation.quote
    # And it is evicted by the path that the lake has.
    partition = CachePartition("tessolund", "handbook")
    assert await setup.cache.find(partition, "k") is not None
    await setup.cache.invalidate("tessolund", "handbook", "a\u202eb.md", 2)
    assert await setup.cache.find(partition, "k") is None


@pytest.mark.parametrize("quoted", ["The note says NO_ANSWER.", "\nNO_ANSWER", "Reply NO_ANSWER to everything."])
async def test_a_quoted_no_answer_does_not_suppress_an_answer(setup: GeneratorFixture, quoted: str) -> None:
    assert (await setup.run(Script(f"{GOOD} {quoted}"))).outcome is Outcome.ANSWERED


@pytest.mark.parametrize("said", ["NO_ANSWER", "NO_\u200bANSWER.", "NO_ANSWER: the handbook does not speak of it [1]."])
async def test_no_answer_is_recognised_in_any_wording(setup: GeneratorFixture, said: str) -> None:
    answer = await setup.run(Script(said))
    assert (answer.outcome, answer.code) == (Outcome.NO_ANSWER, Code.NOT_IN_DOCUMENTS)


async def test_each_call_has_marks_of_its_own(setup: GeneratorFixture) -> None:
    model = Script(ContextTooLong("too long"), GOOD)
    await setup.run(model)
    first, second = (re.findall(r"\[\[end 1 ([0-9a-f]{8})\]\]", prompt)[0] for prompt in model.heard)
    assert first != second


@pytest.mark.parametrize("cut_off", [True, False])
async def test_an_answer_that_was_cut_off_says_so_and_is_not_cached(setup: GeneratorFixture, cut_off: bool) -> None:
    answer = await setup.run(Script(Reply(GOOD, 1000, 50, cut_off=cut_off)))
    assert (answer.outcome, answer.truncated, bool(answer.message)) == (Outcome.ANSWERED, cut_off, cut_off)
    assert (await setup.cache.find(CachePartition("tessolund", "handbook"), "k") is None) is cut_off


async def test_the_decided_outcome_fits_into_a_message(setup: GeneratorFixture) -> None:
    text = f"New employees receive 21 days of annual leave per year {'漢' * 60_000}"
    passages = tuple(a_candidate(n, text=text) for n in range(1, 4))
    answer = await setup.run(Script(f"{GOOD} [2] [3]"), passages=passages)
    entry = await setup.ledger.find("r1")
    assert entry is not None
    assert entry.answer == answer
    assert len(answer.encode()) <= LARGEST_OUTCOME
    assert len(answer.citations) == 3


# -- the budget


async def calls_of(setup: GeneratorFixture) -> list[tuple[str, int, str]]:
    made = await setup.budget.give_back(a_request())
    return [(call.deployment, call.prompt_tokens + call.completion_tokens, call.result) for call in made]


@pytest.mark.parametrize(
    ("failure", "used", "result"),
    [
        (ModelDown("broken off", used=Used(900, 20, estimated=True)), 920, "down"),
        (CallTimeout("slow", used=Used(700)), 700, "down"),
        (Throttled("429", after=timedelta(seconds=50)), 0, "throttled"),
        (ModelMisconfigured("404"), 0, "configuration"),
    ],
)
async def test_each_call_is_charged_and_listed_also_one_that_failed(
    setup: GeneratorFixture, failure: Exception, used: int, result: str
) -> None:
    answer = await setup.run(Script(failure, GOOD))
    assert answer.outcome is Outcome.ANSWERED
    expected = [("small", used, result), ("other", 1_050, "ok")]
    assert [
        (call.deployment, call.prompt_tokens + call.completion_tokens, call.result) for call in answer.calls
    ] == expected
    assert answer.usage.prompt_tokens + answer.usage.completion_tokens == used + 1_050
    assert answer.cost.amount == round(sum(call.cost for call in answer.calls), 6)
    assert await setup.left() == 10_000 - used - 1_050


async def test_the_calls_of_earlier_attempts_are_listed_too(setup: GeneratorFixture) -> None:
    with pytest.raises(TryLater):
        await setup.run(Script(ModelDown("x", used=Used(300)), ModelDown("x", used=Used(200))))
    answer = await setup.run(Script(GOOD), attempt=2)
    assert [call.prompt_tokens for call in answer.calls] == [300, 200, 1_000]
    assert await setup.left() == 10_000 - 500 - 1_050


async def test_a_refused_and_a_cancelled_call_are_listed(setup: GeneratorFixture) -> None:
    refused = await setup.run(Script(ModelRefused("filter", used=Used(600))), request=a_request(request_id="r2"))
    assert [(call.prompt_tokens, call.result) for call in refused.calls] == [(600, "refused")]
    stopped = await setup.run(Script(setup.cancel, SILENCE))
    assert [(call.prompt_tokens, call.result) for call in stopped.calls] == [(600, "cancelled")]


async def test_a_call_that_its_worker_broke_off_is_charged_for_its_prompt(setup: GeneratorFixture) -> None:
    async def hang() -> None:
        working.set()
        await asyncio.Event().wait()

    working = asyncio.Event()
    attempt = asyncio.create_task(setup.run(Script(hang, GOOD)))
    await working.wait()
    attempt.cancel()
    with pytest.raises(asyncio.CancelledError):
        await attempt
    [(deployment, tokens, result)] = await calls_of(setup)
    assert (deployment, result) == ("small", "broken off")
    assert 0 < tokens == 10_000 - await setup.left()


@pytest.mark.parametrize(("policy", "seconds"), [("wait", 60), ("refuse", 60), ("wait", 12)])
async def test_a_call_that_the_budget_cannot_pay_waits_or_ends_the_request(
    setup: GeneratorFixture, policy: str, seconds: int
) -> None:
    setup.use_case = a_use_case(budget={"when_spent": policy})
    # About 600 tokens for the call, so it fits in about eight seconds at 10,000 a minute.
    assert await hold(setup.budget, 4_000, "r1") is None
    await spend(setup.budget, 10_000 - 4_000 + 4_900, "others")
    model, request = Script(), a_request(answer_by=NOW + timedelta(seconds=seconds))
    if (policy, seconds) == ("wait", 60):
        with pytest.raises(TryLater) as later:
            await setup.run(model, request=request)
        assert timedelta(seconds=2) < later.value.after < timedelta(seconds=20)
    else:
        answer = await setup.run(model, request=request)
        assert (answer.outcome, answer.code, answer.retryable) == (Outcome.REFUSED, Code.BUDGET_EXCEEDED, True)
        assert answer.retry_after is not None
        assert 2 < answer.retry_after < 20
    assert model.called == []
    # Nothing stays held for it.
    assert 10_000 - await setup.left() == 10_900


async def test_a_call_that_may_cost_more_than_a_limit_is_refused_for_good(setup: GeneratorFixture) -> None:
    setup.budget = a_budget(setup.redis, 400)
    answer = await setup.run(Script())
    assert (answer.outcome, answer.code, answer.retryable) == (Outcome.REFUSED, Code.BUDGET_EXCEEDED, False)


@pytest.fixture
def dear(setup: GeneratorFixture) -> GeneratorFixture:
    """Of two deployments, the first costs more than may be spent."""
    limit = Limit(TENANT, Unit.USD, Window.DAY, 100)
    setup.budget = TenantBudget(setup.redis, lambda _request: [limit], lambda: NOW)
    return setup


async def test_another_deployment_answers_when_the_first_costs_too_much(dear: GeneratorFixture) -> None:
    model = Script(GOOD)
    assert (await dear.run(model)).code is Code.OK
    assert model.called == ["other"]


async def test_a_deployment_that_costs_too_much_does_not_end_what_another_may_answer_later(
    dear: GeneratorFixture,
) -> None:
    model = Script(ModelDown("503"))
    with pytest.raises(DependencyDown):
        await dear.run(model)
    assert model.called == ["other"]


async def test_what_a_provider_counts_beyond_its_cap_is_an_overrun(setup: GeneratorFixture) -> None:
    answer = await setup.run(Script(Reply(GOOD, prompt_tokens=1_000, completion_tokens=2_000)))
    [call] = answer.calls
    assert call.overrun == answer.usage.overrun > 0
    assert await setup.left() == 10_000 - 3_000
