"""The retriever's handler: candidates for the generator, or `no_answer` for the caller."""

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from services.retriever.handler import Retriever, as_asked
from shared.access.scope import TenantScope
from shared.access.use_cases import Retrieval, UseCase
from shared.budget.rules import Amount
from shared.budget.tenant import Refusal
from shared.contracts.generate import Candidate, GenerateAnswer
from shared.contracts.outcome import CacheState, Code, ModelCall, Outcome, RequestOutcome
from shared.contracts.queues import GENERATE
from shared.contracts.request import ReplyTo, Request, Turn
from shared.contracts.retrieve import RetrievePassages
from shared.embeddings.port import Embedded
from shared.errors import DependencyDown, OverQuota, Reason, TryLater, Unprocessable
from shared.llm.errors import ModelDown, Used
from shared.llm.tokens import count_tokens
from shared.vectors.port import Query
from tests.support.builders import a_deployment

NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)
USE_CASE = UseCase(
    name="onboarding",
    collection="handbook",
    prompt="Answer.",
    deployments=("d",),
    context_window=4000,
    retrieval=Retrieval(candidates=3, overfetch=2),
)
EMBEDDINGS = a_deployment("embeddings", 8_191, kind="embedding", dimensions=2, price={"input": 0.13})


def request(**changes: Any) -> Request:
    base = Request(
        request_id="r1",
        tenant="larkfield",
        caller="app",
        groups=("employees",),
        use_case="onboarding",
        question="How long is leave?",
        accepted_at=NOON,
        answer_by=NOON + timedelta(seconds=60),
        correlation_id="c1",
        reply_to=ReplyTo(queue="answers", session="s1"),
    )
    return base.model_copy(update=changes)


def candidate(text: str, score: float = 1.0) -> Candidate:
    return Candidate(
        passage_id=text,
        path="leave.md",
        version=2,
        title="Leave",
        start=0,
        end=9,
        text=text,
        tokens=5,
        score=score,
    )


class Known:
    """Stands in for `Knowledge`; remembers what it was asked."""

    def __init__(self, *texts: str) -> None:
        self.candidates = [candidate(text) for text in texts]
        self.asked: list[tuple[TenantScope, str, Query, int, int]] = []

    async def search(
        self, scope: TenantScope, collection: str, query: Query, *, wanted: int, overfetch: int
    ) -> list[Candidate]:
        self.asked.append((scope, collection, query, wanted, overfetch))
        return self.candidates


class Embeds:
    def __init__(self, tokens: int | None = 9) -> None:
        self.texts: list[str] = []
        self.tokens = tokens

    async def embed(self, texts: Sequence[str], *, tenant: str, due: datetime | None = None) -> Embedded:
        assert (tenant, due) == ("larkfield", NOON + timedelta(seconds=60))
        self.texts += texts
        return Embedded([[1.0] for _ in texts], self.tokens)


class Charged:
    """A budget that remembers what was spent, and whose estimates were given back; it may have nothing left."""

    def __init__(self, refusal: Refusal | None = None) -> None:
        self.refusal = refusal
        self.begun: list[tuple[str, Amount, bool]] = []
        self.calls: list[ModelCall] = []
        self.given_back: list[str] = []

    async def begin(
        self, request: Request, name: str, worst: Amount, lasts: timedelta, *, keep_estimate: bool = False
    ) -> Refusal | None:
        self.begun.append((name, worst, keep_estimate))
        return self.refusal

    async def settle(self, request: Request, name: str, call: ModelCall, used: Amount) -> None:
        assert name == self.begun[-1][0]
        assert (used.tokens, used.usd) == (call.prompt_tokens, round(call.cost * 1_000_000))
        self.calls.append(call)

    async def give_back(self, request: Request, call: str = "") -> Sequence[ModelCall]:
        self.given_back.append(call or request.spending)
        return self.calls


class Epoch:
    """Counts how often the search had been asked when the epoch was."""

    def __init__(self, value: int | None, known: Known) -> None:
        self.value, self.known = value, known

    async def epoch(self, tenant: str, collection: str) -> int | None:
        assert not self.known.asked, "the epoch must be read before the search"
        assert (tenant, collection) == ("larkfield", "handbook")
        return self.value


def retriever(
    known: Known,
    embeds: Embeds | None = None,
    epoch: int | None = 7,
    now: datetime = NOON,
    budget: Charged | None = None,
) -> Retriever:
    use_cases: Mapping[str, UseCase] = {"onboarding": USE_CASE}
    return Retriever(
        knowledge=known,  # type: ignore[arg-type]
        embedder=embeds or Embeds(),
        deployment=EMBEDDINGS,
        epochs=Epoch(epoch, known),
        use_cases=use_cases,
        budget=budget or Charged(),
        clock=lambda: now,
    )


async def test_the_best_candidates_go_to_the_generator_with_the_epoch_before_the_search() -> None:
    known = Known("one", "two", "three", "four")
    [out] = await retriever(known).handle(RetrievePassages(request=request()))
    assert (out.queue, out.message_id, out.expires_at) == (GENERATE, "r1/generate", request().answer_by)
    assert isinstance(out.message, GenerateAnswer)
    assert [each.text for each in out.message.candidates] == ["one", "two", "three"]
    assert out.message.index_epoch == 7
    [(scope, collection, query, wanted, overfetch)] = known.asked
    assert scope == TenantScope("larkfield", frozenset({"employees"}))
    assert (collection, query.dense, wanted, overfetch) == ("handbook", [1.0], 3, 2)
    assert len(query.sparse) == 2


async def test_an_unknown_epoch_is_passed_on_as_unknown() -> None:
    [out] = await retriever(Known("one"), epoch=None).handle(RetrievePassages(request=request()))
    assert isinstance(out.message, GenerateAnswer)
    assert out.message.index_epoch is None


@pytest.mark.parametrize(("key", "cache"), [("k", CacheState.MISS), (None, CacheState.OFF)])
async def test_without_passages_the_caller_gets_no_answer_and_no_model_is_called(
    key: str | None, cache: CacheState
) -> None:
    asked = request(cache_key=key)
    [out] = await retriever(Known()).handle(RetrievePassages(request=asked))
    assert (out.queue, out.session_id, out.message_id) == ("answers", "s1", "r1/reply")
    assert isinstance(out.message, RequestOutcome)
    assert (out.message.outcome, out.message.code) == (Outcome.NO_ANSWER, Code.NOT_IN_DOCUMENTS)
    assert out.message.cache is cache
    assert out.message.message


@pytest.mark.parametrize("texts", [(), ("one",)])
@pytest.mark.parametrize(("counted", "charged"), [(9, 9), (None, count_tokens("How long is leave?"))])
async def test_the_tokens_of_the_search_are_charged_whether_or_not_it_finds_passages(
    texts: tuple[str, ...], counted: int | None, charged: int
) -> None:
    budget = Charged()
    await retriever(Known(*texts), Embeds(counted), budget=budget).handle(RetrievePassages(request=request()))
    [call] = budget.calls
    assert (call.deployment, call.prompt_tokens, call.result) == ("embeddings", charged, "ok")
    assert (call.cost, call.estimated) == (math.ceil(0.13 * charged) / 1_000_000, counted is None)
    assert [keep for _, _, keep in budget.begun] == [True]


@pytest.mark.parametrize(("counted", "charged"), [(-4, 0), (10**9, len("How long is leave?")), (9, 9)])
async def test_a_count_of_tokens_that_cannot_be_true_is_not_believed(counted: int, charged: int) -> None:
    budget = Charged()
    await retriever(Known("one"), Embeds(counted), budget=budget).handle(RetrievePassages(request=request()))
    overrun = max(0, charged - count_tokens("How long is leave?"))
    assert [(call.prompt_tokens, call.overrun) for call in budget.calls] == [(charged, overrun)]


class Down(Embeds):
    async def embed(self, texts: Sequence[str], *, tenant: str, due: datetime | None = None) -> Embedded:
        raise DependencyDown("503")


async def test_a_search_that_failed_is_a_call_without_tokens() -> None:
    budget = Charged()
    with pytest.raises(DependencyDown):
        await retriever(Known("one"), Down(), budget=budget).handle(RetrievePassages(request=request()))
    assert [(call.prompt_tokens, call.result) for call in budget.calls] == [(0, "broken off")]
    assert budget.given_back == []


class TooSlow(Embeds):
    async def embed(self, texts: Sequence[str], *, tenant: str, due: datetime | None = None) -> Embedded:
        raise ModelDown("no answer in time", used=Used(4, estimated=True))


async def test_a_search_that_was_answered_too_late_is_charged() -> None:
    budget = Charged()
    with pytest.raises(DependencyDown):
        await retriever(Known("one"), TooSlow(), budget=budget).handle(RetrievePassages(request=request()))
    assert [(call.prompt_tokens, call.result, call.estimated) for call in budget.calls] == [(4, "down", True)]


@pytest.mark.parametrize("wait", [None, 50.0])
async def test_a_question_that_the_budget_cannot_pay_is_refused_before_its_search(wait: float | None) -> None:
    embeds, budget = Embeds(), Charged(Refusal(wait))
    soon = NOON + timedelta(seconds=45)  # of the 60 s until the deadline
    [out] = await retriever(Known("one"), embeds, now=soon, budget=budget).handle(RetrievePassages(request=request()))
    assert isinstance(out.message, RequestOutcome)
    assert (out.message.outcome, out.message.code) == (Outcome.REFUSED, Code.BUDGET_EXCEEDED)
    assert (out.message.retryable, out.message.retry_after) == (wait is not None, wait)
    assert (embeds.texts, budget.given_back) == ([], ["r1"])


async def test_a_question_whose_deadline_allows_it_waits_for_the_budget() -> None:
    budget = Charged(Refusal(5.0))
    with pytest.raises(TryLater) as later:
        await retriever(Known("one"), budget=budget).handle(RetrievePassages(request=request()))
    assert later.value.after == timedelta(seconds=5)


async def test_a_refusal_without_passages_has_the_calls_that_were_made() -> None:
    [out] = await retriever(Known()).handle(RetrievePassages(request=request()))
    assert isinstance(out.message, RequestOutcome)
    assert [call.deployment for call in out.message.calls] == ["embeddings"]
    assert out.message.usage.prompt_tokens == 9


@pytest.mark.parametrize(("texts", "given_back"), [(("24 days",), []), ((), ["r1"])])
async def test_tokens_stay_reserved_only_while_a_model_may_be_called(
    texts: tuple[str, ...], given_back: list[str]
) -> None:
    budget = Charged()
    await retriever(Known(*texts), budget=budget).handle(RetrievePassages(request=request()))
    assert budget.given_back == given_back


async def test_a_late_question_is_not_embedded() -> None:
    embeds = Embeds()
    with pytest.raises(Unprocessable) as raised:
        await retriever(Known("one"), embeds, now=NOON + timedelta(minutes=2)).handle(
            RetrievePassages(request=request())
        )
    assert raised.value.reason is Reason.DEADLINE_EXCEEDED
    assert embeds.texts == []


async def test_an_unknown_use_case_is_named() -> None:
    with pytest.raises(Unprocessable, match=r"'other' \(it has: onboarding\)"):
        await retriever(Known()).handle(RetrievePassages(request=request(use_case="other")))


async def test_errors_of_the_model_reach_the_worker() -> None:
    class Busy(Embeds):
        async def embed(self, texts: Sequence[str], *, tenant: str, due: datetime | None = None) -> Embedded:
            raise TryLater("429", after=timedelta(seconds=3))

    with pytest.raises(TryLater):
        await retriever(Known("one"), Busy()).handle(RetrievePassages(request=request()))


@pytest.mark.parametrize("fits", [True, False])
async def test_without_quota_for_the_question_it_waits_for_its_turn_or_is_refused(fits: bool) -> None:
    class Full(Embeds):
        async def embed(self, texts: Sequence[str], *, tenant: str, due: datetime | None = None) -> Embedded:
            raise OverQuota("full", after=timedelta(seconds=70), fits=fits)

    budget = Charged()
    handling = retriever(Known("one"), Full(), budget=budget).handle(RetrievePassages(request=request()))
    if fits:
        with pytest.raises(OverQuota):
            await handling
        assert budget.given_back == [budget.begun[0][0]]  # what was held for the call, and not the estimate
        return
    [envelope] = await handling
    assert isinstance(envelope.message, RequestOutcome)
    assert (envelope.message.outcome, envelope.message.code) == (Outcome.REFUSED, Code.OVERLOADED)
    assert envelope.message.retry_after is not None
    assert 10 <= envelope.message.retry_after <= 15  # its turn is so long after its deadline
    assert budget.given_back == [budget.begun[0][0], "r1"]
    assert budget.calls == []


def turn(role: Any, text: str) -> Turn:
    return Turn(role=role, text=text)


@pytest.mark.parametrize(
    ("conversation", "words"),
    [
        ((), "And for part-timers?"),
        (
            (turn("user", "How long is leave?"), turn("assistant", "30 days.")),
            "How long is leave?\nAnd for part-timers?",
        ),
        ((turn("user", "a"), turn("user", "b"), turn("assistant", "c")), "b\nAnd for part-timers?"),
        ((turn("assistant", "Hello"), turn("user", " ")), "And for part-timers?"),
    ],
)
def test_the_previous_question_is_part_of_the_query(conversation: tuple[Turn, ...], words: str) -> None:
    assert as_asked(request(question="And for part-timers?", conversation=conversation)) == words
