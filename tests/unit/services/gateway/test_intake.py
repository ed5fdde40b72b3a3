"""What the gateway does with asks, sentinels and the dead; on a real Redis."""

import json
from dataclasses import replace
from datetime import timedelta

import pytest

from services.gateway.waiters import HttpOutcome
from shared.answer_cache import CachePartition
from shared.bus.port import ORIGIN, Received
from shared.contracts.deadline import DeadlinePassed
from shared.contracts.envelope import to_retriever
from shared.contracts.outcome import CacheState, Citation, Code, Outcome, ending
from shared.contracts.retrieve import RetrievePassages
from shared.errors import Reason, TryLater, Unprocessable
from shared.redis import FailFastRedis
from tests.support.budget import hold
from tests.support.builders import NOW, a_request
from tests.support.gateway import Gateway, a_dead, an_ask, the_answer


@pytest.fixture
def gateway(redis: FailFastRedis) -> Gateway:
    return Gateway(redis)


async def test_the_sentinel_is_sent_before_the_work_it_guards(gateway: Gateway) -> None:
    sentinel, work = await gateway.ask()
    assert isinstance(sentinel.message, DeadlinePassed)
    assert sentinel.not_before is not None
    assert NOW + timedelta(seconds=60) <= sentinel.not_before <= NOW + timedelta(seconds=75)
    assert (work.queue, sentinel.queue) == ("retrieve", "outcomes")


async def test_a_queue_without_a_caller_is_not_served(gateway: Gateway) -> None:
    with pytest.raises(Unprocessable) as refused:
        await gateway.ask(queue="ask-elsewhere")
    assert refused.value.reason is Reason.UNAUTHORIZED


async def test_the_same_message_id_from_two_callers_is_two_requests(gateway: Gateway) -> None:
    first, second = await gateway.ask(), await gateway.ask(queue="ask-hr")
    assert len(first) == len(second) == 2, "both are worked on"
    assert {envelope.message_id for envelope in first}.isdisjoint(envelope.message_id for envelope in second)


async def test_the_same_message_twice_is_one_request_and_reserved_once(gateway: Gateway) -> None:
    first = await gateway.ask()
    for _ in range(5):  # 8,000 tokens per minute would not last for more than two
        again = await gateway.ask()
    assert [envelope.message_id for envelope in first] == [envelope.message_id for envelope in again]


async def test_a_retry_copy_is_the_same_request_as_its_original(gateway: Gateway) -> None:
    first = await gateway.ask()
    copy = await gateway.ask(message_id="whatever/r1", properties={ORIGIN: "m1"})
    assert first[1].message_id == copy[1].message_id


@pytest.mark.parametrize("run", ["x" * 10_000, "p1/../p2", "", "p0", 7, "p1\n"])
async def test_a_forged_run_is_no_run(gateway: Gateway, run: str | int) -> None:
    plain = await gateway.ask()
    forged = await gateway.ask(properties={"ragbus-run": run, "ragbus-rerun": True})
    assert [envelope.message_id for envelope in forged] == [envelope.message_id for envelope in plain]


async def test_a_message_without_an_id_is_identified_by_its_sequence_number(gateway: Gateway) -> None:
    first = await gateway.ask(message_id=None)
    second = await gateway.ask(message_id=None, sequence_number=8)
    assert first[1].message_id != second[1].message_id


@pytest.mark.parametrize("subject", ["ask.v2", "ask", "retrieve.v1"])
async def test_an_unknown_version_is_unsupported(gateway: Gateway, subject: str) -> None:
    with pytest.raises(Unprocessable) as refused:
        await gateway.ask(subject=subject)
    assert refused.value.reason is Reason.SCHEMA_UNSUPPORTED
    assert "ask.v1" in refused.value.detail


async def test_an_ask_over_budget_is_refused_with_the_time_to_wait(gateway: Gateway) -> None:
    for number in range(2):
        assert len(await gateway.ask(message_id=f"m{number}")) == 2
    answer = the_answer(await gateway.ask(message_id="m3"))
    assert (answer.outcome, answer.code, answer.retryable) == (Outcome.REFUSED, Code.BUDGET_EXCEEDED, True)
    assert answer.retry_after is not None
    assert 0 < answer.retry_after <= 30.5  # 4,000 tokens at 8,000 a minute


async def test_a_known_answer_comes_from_the_cache_and_costs_nothing(gateway: Gateway) -> None:
    work = (await gateway.ask(message_id="a"))[1]
    assert work.request is not None
    assert work.request.cache_key is not None
    cited = Citation(marker=1, path="d.md", version=1, title="t", start=0, end=1, quote="q", score=1)
    known = ending(work.request, Outcome.ANSWERED, Code.OK, text="24", citations=(cited,))
    await gateway.cache.store(CachePartition("tessolund", "handbook"), work.request.cache_key, known, epoch=0, ttl=60)
    answer = the_answer(await gateway.ask(question="  HOW? ", message_id="b"))
    assert (answer.text, answer.cache, answer.usage.prompt_tokens) == ("24", CacheState.HIT, 0)
    assert answer.request_id != known.request_id
    managers = await gateway.ask(queue="ask-hr", message_id="c")  # who may see more, asks anew
    assert len(managers) == 2


@pytest.mark.parametrize(("knows", "asks"), [("ask-hr", "ask-comma"), ("ask-comma", "ask-hr")])
async def test_an_answer_is_cached_for_exactly_the_groups_it_was_found_for(
    gateway: Gateway, knows: str, asks: str
) -> None:
    """One group called `employees,managers` is not the two groups."""
    work = (await gateway.ask(queue=knows, message_id="a"))[1]
    assert work.request is not None
    assert work.request.cache_key is not None
    known = ending(work.request, Outcome.NO_ANSWER, Code.NOT_IN_DOCUMENTS, text="")
    await gateway.cache.store(CachePartition("tessolund", "handbook"), work.request.cache_key, known, epoch=0, ttl=60)
    assert the_answer(await gateway.ask(queue=knows, message_id="b")).cache is CacheState.HIT
    assert len(await gateway.ask(queue=asks, message_id="c")) == 2  # a sentinel and work


async def test_an_answered_request_is_not_answered_again(gateway: Gateway) -> None:
    request = (await gateway.ask())[1].request
    assert request is not None
    await gateway.ledger.decide(request, ending(request, Outcome.ANSWERED, Code.OK, text="x"))
    assert the_answer(await gateway.ask()).text == "x"  # decided, but perhaps never sent
    await gateway.ledger.mark_delivered(request)
    assert await gateway.ask() == []


async def test_without_redis_asks_are_admitted_on_a_smaller_budget() -> None:
    gateway = Gateway(FailFastRedis("redis://127.0.0.1:1/0"))
    assert len(await gateway.ask(message_id="1")) == 2
    assert the_answer(await gateway.ask(message_id="2")).code is Code.BUDGET_EXCEEDED


async def test_a_sentinel_tells_the_caller_that_its_request_expired(gateway: Gateway) -> None:
    request = a_request()
    answer = the_answer(await gateway.outcomes.handle(DeadlinePassed(request=request)))
    assert (answer.outcome, answer.retryable) == (Outcome.EXPIRED, True)


async def test_a_sentinel_of_an_earlier_admission_tells_nothing(gateway: Gateway) -> None:
    await gateway.ledger.accept(a_request(answer_by=NOW + timedelta(seconds=90)))
    assert await gateway.outcomes.handle(DeadlinePassed(request=a_request())) == []


async def test_an_outcome_is_stored_for_its_caller_even_if_redis_lost_the_request(gateway: Gateway) -> None:
    answer = ending(a_request(), Outcome.ANSWERED, Code.OK, text="x")
    await gateway.outcomes.handle(HttpOutcome(answer, "tessolund", "welcome-app"))
    entry = await gateway.ledger.find("r1")
    assert entry is not None
    assert (entry.caller, entry.delivered) == ("welcome-app", True)


async def test_the_tokens_of_an_expired_request_are_given_back(gateway: Gateway) -> None:
    for number in range(3):  # 8,000 tokens pay for two at a time
        work = (await gateway.ask(message_id=f"m{number}"))[1].request
        assert work is not None
        await gateway.outcomes.handle(DeadlinePassed(request=work))


async def test_a_repeated_ask_keeps_the_first_deadline(gateway: Gateway) -> None:
    first = (await gateway.ask())[1].request
    again = (await gateway.ask(enqueued_at=NOW + timedelta(seconds=20)))[1].request
    assert first is not None
    assert again is not None
    assert again.answer_by == first.answer_by


async def test_an_id_belongs_to_one_question(gateway: Gateway) -> None:
    assert len(await gateway.ask(question="How?")) == 2
    [envelope] = await gateway.ask(question="Why?", reply_to_session_id="s2")
    assert (the_answer([envelope]).code, the_answer([envelope]).retryable) == (Code.ID_REUSED, False)
    assert (envelope.decide, envelope.session_id) == (False, "s2")


async def test_every_replay_pays_for_itself(gateway: Gateway) -> None:
    taken = [await gateway.ask(properties={"ragbus-run": f"p{n}"}) for n in range(1, 6)]
    assert [len(envelopes) for envelopes in taken] == [2, 2, 1, 1, 1]  # 8,000 tokens pay for two


FORGED_WORK = to_retriever(a_request(request_id="r-of-hr", caller="hr-portal"))


@pytest.mark.parametrize("subject", ["retrieve.v1", "generate.v1", "deadline.v1", "answer.v1"])
async def test_a_callers_message_is_never_read_as_internal_work(gateway: Gateway, subject: str) -> None:
    forged = an_ask(body=FORGED_WORK.message.encode(), subject=subject)
    [envelope] = await gateway.dead.handle(gateway.dead.decode(a_dead(forged, "SchemaUnsupported", "ask")))
    assert envelope.queue == "answers"
    assert "r-of-hr" not in envelope.message_id


@pytest.mark.parametrize("source", [None, "nowhere"])
async def test_a_dead_message_from_nowhere_is_archived(gateway: Gateway, source: str | None) -> None:
    forged = replace(a_dead(an_ask(), "SchemaInvalid", "ask"), dead_letter_source=source)
    assert await gateway.dead.handle(gateway.dead.decode(forged)) == []


async def test_dead_work_older_than_the_ledgers_memory_tells_nothing(gateway: Gateway) -> None:
    old = to_retriever(a_request(answer_by=NOW - timedelta(days=2)))
    message = Received(queue="retrieve", body=old.message.encode(), subject="retrieve.v1")
    assert await gateway.dead.handle(gateway.dead.decode(a_dead(message, "TTLExpiredException", "retrieve"))) == []


async def test_an_http_outcome_waits_on_its_queue_while_redis_is_unavailable() -> None:
    gateway = Gateway(FailFastRedis("redis://127.0.0.1:1/0"))
    waiting = gateway.waiters.join("r1")
    answer = ending(a_request(), Outcome.ANSWERED, Code.OK, text="x")
    with pytest.raises(TryLater):
        await gateway.outcomes.handle(HttpOutcome(answer, "tessolund", "welcome-app"))
    assert (await waiting).answer.text == "x"  # a caller that waits in this process has it all the same


@pytest.mark.parametrize(
    ("reason", "outcome", "code"),
    [
        ("SchemaInvalid", Outcome.FAILED, Code.SCHEMA_INVALID),
        ("TTLExpiredException", Outcome.EXPIRED, Code.DEADLINE_EXCEEDED),
        ("MaxDeliveryCountExceeded", Outcome.FAILED, Code.CRASHED),
        ("SomethingNew", Outcome.FAILED, Code.CRASHED),
    ],
)
async def test_the_sender_of_a_dead_ask_is_told_why(
    gateway: Gateway, reason: str, outcome: Outcome, code: Code
) -> None:
    message = an_ask(body=b"{not json", reply_to="answers", reply_to_session_id="s1", correlation_id="c1")
    dead_message = gateway.dead.decode(a_dead(message, reason, "ask"))
    [envelope] = await gateway.dead.handle(dead_message)
    assert (envelope.queue, envelope.session_id, envelope.correlation_id) == ("answers", "s1", "c1")
    assert (the_answer([envelope]).outcome, the_answer([envelope]).code) == (outcome, code)


async def test_a_dead_ask_cannot_name_a_queue_that_is_not_its_callers(gateway: Gateway) -> None:
    dead_message = gateway.dead.decode(a_dead(an_ask(body=b"{", reply_to="answers-hr"), "SchemaInvalid", "ask"))
    [envelope] = await gateway.dead.handle(dead_message)
    assert envelope.queue == "answers"


async def test_the_caller_of_dead_work_is_told_and_gets_its_tokens_back(gateway: Gateway) -> None:
    work = (await gateway.ask())[1]
    assert work.request is not None
    message = Received(queue="retrieve", body=work.message.encode(), subject="retrieve.v1")
    dead_message = gateway.dead.decode(a_dead(message, "RetriesExhausted", "retrieve"))
    answer = the_answer(await gateway.dead.handle(dead_message))
    assert (answer.code, answer.retryable) == (Code.RETRIES_EXHAUSTED, True)
    assert await hold(gateway.budget, 8000, "next") is None


async def test_the_text_of_a_bug_does_not_reach_the_caller(gateway: Gateway) -> None:
    message = Received(queue="retrieve", body=to_retriever(a_request()).message.encode(), subject="retrieve.v1")
    dead_message = gateway.dead.decode(a_dead(message, "Crashed", "retrieve"))
    assert "why" not in the_answer(await gateway.dead.handle(dead_message)).message


@pytest.mark.parametrize("body", [b"", b"\xff", b"{}"])
async def test_unreadable_work_is_archived_and_no_caller_is_told(gateway: Gateway, body: bytes) -> None:
    message = Received(queue="retrieve", body=body, subject="retrieve.v1")
    assert await gateway.dead.handle(gateway.dead.decode(a_dead(message, "SchemaInvalid", "retrieve"))) == []


async def test_an_ask_too_large_for_later_messages_is_refused_at_once(gateway: Gateway) -> None:
    turns = [{"role": "user", "text": "漢" * 8_000}] * 6
    body = json.dumps({"question": "How?", "conversation": turns}, ensure_ascii=False).encode()
    assert len(body) < 256 * 1024  # a broker takes it
    answer = the_answer(await gateway.ask(body=body))
    assert (answer.outcome, answer.code, answer.retryable) == (Outcome.REFUSED, Code.PAYLOAD_TOO_LARGE, False)
    fits = json.dumps({"question": "How?", "conversation": turns[:5]}, ensure_ascii=False).encode()
    assert [type(envelope.message) for envelope in await gateway.ask(body=fits, message_id="m2")][1:] == [
        RetrievePassages
    ]


async def test_invisible_characters_of_a_question_are_removed(gateway: Gateway) -> None:
    hidden = "\u200b\u202e\u3164\x07" + "".join(chr(0xE0000 + ord(letter)) for letter in "obey")
    turn = {"role": "user", "text": f"Be{hidden}fore?"}
    asked = [
        json.dumps({"question": f" H{each}ow?\r\n", "conversation": [{**turn, "text": f"Be{each}fore?"}]}).encode()
        for each in ("", hidden)
    ]
    requests = []
    for number, body in enumerate(asked):
        [_, work] = await gateway.ask(body=body, message_id=f"m{number}")
        assert work.request is not None
        requests.append(work.request)
    seen, unseen = requests
    assert (unseen.question, [turn.text for turn in unseen.conversation]) == ("How?", ["Before?"])
    assert unseen.cache_key == seen.cache_key


@pytest.mark.parametrize("question", ["\u200b", "\u2060 \U000e0041\n", "\x00"])
async def test_a_question_of_invisible_characters_is_invalid(gateway: Gateway, question: str) -> None:
    with pytest.raises(Unprocessable) as refused:
        await gateway.ask(body=json.dumps({"question": question}).encode())
    assert refused.value.reason is Reason.SCHEMA_INVALID
