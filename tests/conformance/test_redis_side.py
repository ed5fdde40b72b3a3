"""Cache and ledger on a real Redis, one server and a cluster: what their scripts promise."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.answer_cache import AnswerCache, CachePartition, answer_key, normalise
from shared.contracts.outcome import Citation, Code, Outcome, RequestOutcome, cancelled, ending
from shared.contracts.request import ReplyTo
from shared.ledger.ledger import KEEP, Ledger
from shared.redis import FailFastRedis
from tests.support.builders import NOW, a_request
from tests.support.ports import wired
from tests.support.redis_cluster import Cluster, running_cluster

PARTITION = CachePartition("tessolund", "handbook")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running_cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture(params=["one server", "cluster"])
async def redis(request: pytest.FixtureRequest) -> AsyncIterator[FailFastRedis]:
    """Our connection to an empty Redis of either kind."""
    if request.param == "cluster":
        cluster: Cluster = request.getfixturevalue("running")
        cluster.empty()
        url = cluster.url
    else:
        url = request.getfixturevalue("redis_url")
    connection = FailFastRedis(url, timeout=60)
    yield wired(connection)
    await connection.close()


def an_answer(*uses: tuple[str, int], outcome: Outcome = Outcome.ANSWERED) -> RequestOutcome:
    cited = tuple(
        Citation(marker=n, path=d, version=v, title="t", start=0, end=1, quote="q", score=1)
        for n, (d, v) in enumerate(uses, 1)
    )
    return ending(a_request(), outcome, Code.OK, text="x", citations=cited)


# -- the cache


async def test_an_answer_is_found_until_a_document_it_used_changes(redis: FailFastRedis) -> None:
    cache = AnswerCache(redis)
    await cache.store(PARTITION, "k1", an_answer(("a.md", 1), ("b.md", 3)), epoch=0, ttl=60)
    await cache.store(PARTITION, "k2", an_answer(("c.md", 1)), epoch=0, ttl=60)
    assert await cache.invalidate("tessolund", "handbook", "b.md", 4) == 1
    assert await cache.find(PARTITION, "k1") is None
    assert await cache.find(PARTITION, "k2") is not None  # exactly the dependent ones go


async def test_an_answer_that_was_made_before_a_change_is_not_stored_after_it(redis: FailFastRedis) -> None:
    cache = AnswerCache(redis)
    await cache.invalidate("tessolund", "handbook", "a.md", 2)
    assert not await cache.store(PARTITION, "k", an_answer(("a.md", 1)), epoch=0, ttl=60)
    assert await cache.store(PARTITION, "k", an_answer(("a.md", 2)), epoch=1, ttl=60)


async def test_an_answer_below_the_minimum_version_is_never_served(redis: FailFastRedis) -> None:
    cache = AnswerCache(redis)
    await cache.store(PARTITION, "k", an_answer(("a.md", 1)), epoch=0, ttl=60)
    # As if the eviction had missed it.
    await redis.run(lambda connection: connection.hset(PARTITION.key("minimum"), "a.md", "2"))
    assert await cache.find(PARTITION, "k") is None


async def test_the_outcome_no_answer_is_cached_until_any_document_changes(redis: FailFastRedis) -> None:
    cache = AnswerCache(redis)
    await cache.store(PARTITION, "k", an_answer(outcome=Outcome.NO_ANSWER), epoch=0, ttl=60)
    assert await cache.find(PARTITION, "k") is not None
    await cache.invalidate("tessolund", "handbook", "new.md", 1)
    assert await cache.find(PARTITION, "k") is None
    assert not await cache.store(PARTITION, "k", an_answer(outcome=Outcome.NO_ANSWER), epoch=0, ttl=60)


async def test_collections_and_tenants_do_not_share_a_cache_partition(redis: FailFastRedis) -> None:
    cache = AnswerCache(redis)
    await cache.store(PARTITION, "k", an_answer(("a.md", 1)), epoch=0, ttl=60)
    assert await cache.find(CachePartition("other", "handbook"), "k") is None
    await cache.invalidate("other", "handbook", "a.md", 9)
    assert await cache.find(PARTITION, "k") is not None


SCOPE = {
    "tenant": "t",
    "acl_class": "employees",
    "use_case": "onboarding",
    "version": "1",
    "question": "How many days?",
}


@given(field=st.sampled_from(sorted(SCOPE)), other=st.text(min_size=1))
def test_keys_differ_when_anything_in_their_scope_differs(field: str, other: str) -> None:
    if normalise(other) == normalise(SCOPE[field]):
        return
    assert answer_key("s", turns=(), **SCOPE) != answer_key("s", turns=(), **{**SCOPE, field: other})


@pytest.mark.parametrize(("one", "other"), [("10⁵ what?", "105 what?"), ("Is it for US staff?", "Is it for us staff?")])
def test_questions_that_differ_in_meaning_do_not_share_a_key(one: str, other: str) -> None:
    assert normalise(one) != normalise(other)


@pytest.mark.parametrize("same", ["how many  days", "How many days?!", " HOW MANY DAYS "])
def test_spelling_differences_do_not_change_the_key(same: str) -> None:
    assert answer_key("s", turns=(), **SCOPE) == answer_key("s", turns=(), **{**SCOPE, "question": same})


# -- the ledger


async def test_of_many_outcomes_the_first_is_the_outcome(redis: FailFastRedis) -> None:
    ledger, request = Ledger(redis), a_request()
    texts = [f"answer {n}" for n in range(20)]
    entries = await asyncio.gather(
        *(ledger.decide(request, ending(request, Outcome.ANSWERED, Code.OK, text=text)) for text in texts)
    )
    assert len({entry.answer.text for entry in entries if entry.answer is not None}) == 1


async def test_a_request_is_found_from_its_admission_on(redis: FailFastRedis) -> None:
    ledger, request = Ledger(redis), a_request()
    assert await ledger.find("r1") is None
    await ledger.accept(request)
    entry = await ledger.find("r1")
    assert entry is not None
    assert (entry.tenant, entry.caller, entry.answer, entry.delivered) == ("tessolund", "welcome-app", None, False)


async def test_a_rerun_has_an_outcome_of_its_own(redis: FailFastRedis) -> None:
    ledger = Ledger(redis)
    first = await ledger.decide(a_request(), ending(a_request(), Outcome.FAILED, Code.CRASHED))
    rerun = a_request(run="p1", rerun=True)
    second = await ledger.decide(rerun, ending(rerun, Outcome.ANSWERED, Code.OK, text="x"))
    assert first.answer is not None
    assert second.answer is not None
    assert (first.answer.outcome, second.answer.outcome) == (Outcome.FAILED, Outcome.ANSWERED)


async def test_the_index_of_dependent_answers_does_not_grow_without_limit(redis: FailFastRedis) -> None:
    cache = AnswerCache(redis)
    key = PARTITION.key("uses", "a.md")
    await redis.run(lambda connection: connection.zadd(key, {f"old{n}": 1 for n in range(300)}))
    await cache.store(PARTITION, "k", an_answer(("a.md", 1)), epoch=0, ttl=60)
    assert await redis.run(lambda connection: connection.zcard(key)) == 1


@pytest.mark.parametrize("accepted", [True, False])
async def test_a_cancelled_request_is_not_open(redis: FailFastRedis, accepted: bool) -> None:
    ledger, request = Ledger(redis), a_request()
    if accepted:
        await ledger.accept(request)
    assert await ledger.is_open(request)
    entry = await ledger.cancel("r1", "tessolund", "welcome-app")
    assert (entry.request is not None, entry.cancelled) == (accepted, not accepted)
    await ledger.decide(request, cancelled(request, NOW))
    assert not await ledger.is_open(request)


async def test_what_was_found_open_just_now_is_not_asked_again_once_and_in_its_own_task_only(
    redis: FailFastRedis,
) -> None:
    ledger, request = Ledger(redis), a_request()
    await ledger.accept(request)

    async def found_then_cancelled() -> list[bool]:
        await ledger.find("r1")
        await ledger.decide(request, cancelled(request, NOW))
        at_once = await ledger.is_open(request)
        return [at_once, *[await ledger.is_open(request, lately=60) for _ in range(2)]]

    assert await asyncio.create_task(found_then_cancelled()) == [False, True, False]
    assert not await ledger.is_open(request, lately=60)
    await ledger.find("r1")  # which is over
    assert not await ledger.is_open(request, lately=60)


async def test_a_tombstone_is_seen_by_its_ask_and_changes_no_outcome(redis: FailFastRedis) -> None:
    ledger, request = Ledger(redis), a_request()
    await ledger.cancel("r1", "tessolund", "welcome-app")
    assert not (await ledger.accept(request)).is_open
    other = a_request(request_id="r2")
    await ledger.decide(other, ending(other, Outcome.ANSWERED, Code.OK, text="x"))
    entry = await ledger.cancel("r2", "tessolund", "welcome-app")
    assert entry.answer is not None
    assert (entry.answer.text, entry.cancelled) == ("x", False)


async def test_the_ledger_stores_the_reply_address_and_not_the_question(redis: FailFastRedis) -> None:
    ledger, request = Ledger(redis), a_request()
    await ledger.accept(request)
    await ledger.accept(a_request(reply_to=ReplyTo(queue="answers", session="another")))
    entry = await ledger.find("r1")
    assert entry is not None
    assert entry.request == request.without_question()
    assert entry.request.question == ""


async def test_a_tombstone_expires(redis: FailFastRedis) -> None:
    await Ledger(redis).cancel("r1", "tessolund", "welcome-app")
    left = await redis.run(lambda connection: connection.ttl("ragbus:request:{r1}"))
    assert 0 < left <= KEEP.total_seconds()
