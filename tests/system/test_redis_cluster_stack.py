"""The whole system on a Redis Cluster of two nodes, which is what Azure Managed Redis recommends."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from tests.support.redis_cluster import Cluster, running_cluster
from tests.support.waiting import until
from tests.system.conftest import App

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.long]

WORKERS = ("gateway", "retriever", "generator", "indexer")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running_cluster(tmp_path_factory.mktemp("cluster")) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def on_cluster(indexed: App, cluster: Cluster) -> AsyncIterator[App]:
    """The shared stack with its workers on the cluster."""
    stack, before = indexed.stack, {"RAGBUS_REDIS_URL": indexed.stack.redis_url}
    try:
        await asyncio.gather(*(stack.restart(worker, {"RAGBUS_REDIS_URL": cluster.url}) for worker in WORKERS))
        yield indexed
    finally:
        await asyncio.gather(*(stack.restart(worker, before) for worker in WORKERS))


def a_question() -> str:
    return f"What are the core hours for remote workers? ({uuid.uuid4().hex})"


async def test_an_identical_question_is_paid_once_and_then_answered_from_the_cluster(
    on_cluster: App, cluster: Cluster
) -> None:
    questions = [a_question() for _ in range(3)]
    for question in questions:
        assert (await on_cluster.ask(question))["outcome"] == "answered"

        async def cached(question: str = question) -> bool:
            return bool((await on_cluster.ask(question))["cache"] == "hit")

        await until(cached)
        assert len(await on_cluster.calls(question)) == 1
    # Both nodes are used: a ledger entry lies wherever its request's slot is.
    assert all(node.say("DBSIZE") > 0 for node in cluster.nodes)


async def test_when_a_node_dies_every_question_is_answered_and_the_cluster_is_used_again_when_it_is_back(
    on_cluster: App, cluster: Cluster
) -> None:
    cluster.nodes[1].kill()
    answers = await asyncio.gather(*(on_cluster.ask(a_question()) for _ in range(2)))
    assert [answer["outcome"] for answer in answers] == ["answered"] * 2
    cluster.nodes[1].start()
    question = a_question()

    async def cached() -> bool:
        return bool((await on_cluster.ask(question))["cache"] == "hit")

    await until(cached)
