"""Every worker dies once at every failpoint that it comes to, and nobody is told too little or too much.

Each service is led from point to point, the four side by side: what one leaves behind comes back when its lock has
ended, and the next point has to wait for that, or the same work would die again and again.
"""

import asyncio
import os
import shutil
import signal
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
import yaml
from azure.servicebus import ServiceBusMessage
from azure.servicebus.aio import ServiceBusClient
from redis.asyncio import Redis

from local.stack import NO_WORKERS, Stack
from local.stack.recipe import inherited
from shared.contracts.ids import request_id
from shared.errors import TryLater
from shared.failpoints import POINTS
from tests.failpoints import FOLDER, set_trap
from tests.support.waiting import PATIENCE, until
from tests.support.worker_pool import WorkerPool
from tests.system.conftest import App

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.long]

EXAMPLE = Path(__file__).parents[2] / "examples" / "onboarding"
LOCK = timedelta(seconds=3)
SESSION = "failpoints"
# Long enough for everything that may come back after a lock; short enough for the duplicate window.
LIFE = timedelta(seconds=240)
GRACE = "1"
Provoke = Callable[["Rig"], Awaitable[Awaitable[object]]]
"""Brings a service to a point; what it returns waits for the end of it."""


class Rig:
    """The system under traps, and what was asked of it."""

    def __init__(self, stack: Stack, pool: WorkerPool, app: App, client: ServiceBusClient, traps: Path) -> None:
        self.stack = stack
        self.pool = pool
        self.app = app
        self.traps = traps
        self.asked: set[str] = set()
        """The message ids of the requests that must have an outcome on the reply queue."""
        self.told: list[dict[str, Any]] = []
        self._client = client

    async def ask(self, **body: Any) -> str:
        """Post a question that nobody asked before; its number, which is in it."""
        number = uuid.uuid4().hex
        given = {"question": asking(number), "use_case": "onboarding", "cache": "refresh", **body}
        await self.post(number, given)
        return number

    async def post(self, number: str, body: Any) -> None:
        self.asked.add(number)
        await self.app.post(body, message_id=number, reply_to_session_id=SESSION, time_to_live=LIFE)

    async def garbage(self, queue: str) -> None:
        """Send what none of our workers would to a queue of ours."""
        async with self._client.get_queue_sender(queue) as sender:
            await sender.send_messages(ServiceBusMessage(b"{", subject=f"{queue}.v1", message_id=uuid.uuid4().hex))

    async def crash(self, service: str, point: str, provoke: Provoke) -> None:
        """Let `service` die at `point`, and start it again."""
        trap = self.arm(service, point)
        ended = await provoke(self)
        await self.crashed(service, point, trap)
        await ended

    def arm(self, service: str, point: str) -> Path:
        return set_trap(self.traps, service, point)

    async def crashed(self, service: str, point: str, trap: Path) -> None:
        async def sprung() -> bool:
            return not trap.exists()

        sprung.__name__ = f"{service} at {point}"
        await until(sprung)
        worker = self.pool.workers[service]
        await asyncio.wait_for(worker.gone.wait(), PATIENCE)
        [death] = [death for death in self.pool.deaths if death.startswith(f"{service} ")]
        assert f"status {-signal.SIGKILL};" in death, point
        self.pool.deaths.remove(death)
        assert await self.pool.start(worker)

    async def in_the_model(self, number: str) -> None:
        """Wait until a model is at work on a question."""

        async def called() -> bool:
            reply = await self.app.control.get("/control/calls")
            return any(call["question"] == asking(number) for call in reply.json())

        await until(called)

    async def answered(self, number: str) -> None:
        """Wait until the ledger has the outcome of a request."""
        path = f"/v1/requests/{request_id('tessolund', 'welcome-app', number)}"

        async def known() -> bool:
            try:
                reply = await self.app.http.get(path, headers=self.app.key(), timeout=5)
            except httpx.TransportError as away:
                known.__name__ = f"{number}: {away!r}"
                return False
            known.__name__ = f"{number}: {reply.status_code} {reply.text}"
            return reply.status_code == 200

        await until(known, LIFE.total_seconds())

    async def outcomes(self) -> Counter[str]:
        """How every request ended, when all have; fails when one was told twice."""

        async def complete() -> bool:
            self.told += await self.app.answers(SESSION, wait=5, more=1)
            return {answer["correlation_id"] for answer in self.told} >= self.asked

        await until(complete)
        told = Counter(answer["correlation_id"] for answer in self.told)
        assert set(told) == self.asked, "an outcome without a request"
        assert max(told.values()) == 1, "a second outcome"
        return Counter(answer["outcome"] for answer in self.told)


def asking(number: str) -> str:
    return f"What are the core hours for remote workers? ({number})"


async def a_question(rig: Rig) -> Awaitable[object]:
    return rig.answered(await rig.ask())


async def a_refusal(rig: Rig) -> Awaitable[object]:
    return rig.answered(await rig.ask(use_case="nobody-has-this"))


async def a_question_about_nothing(rig: Rig) -> Awaitable[object]:
    return rig.answered(await rig.ask(use_case="nothing"))


async def poison(rig: Rig) -> Awaitable[object]:
    number = uuid.uuid4().hex
    await rig.post(number, b"{")
    return rig.answered(number)


async def a_question_by_http(rig: Rig) -> Awaitable[object]:
    """Asked again under the same key until it is accepted, as a client should; the outcome is fetched."""
    key = uuid.uuid4().hex
    headers = {**rig.app.key(), "Idempotency-Key": key}

    async def outcome() -> bool:
        try:
            reply = await rig.app.http.post(
                "/v1/onboarding/ask?wait=10", json={"question": asking(key), "cache": "refresh"}, headers=headers
            )
        except httpx.TransportError:
            return False
        return reply.status_code == 200 and reply.json()["outcome"] == "answered"

    return asyncio.create_task(until(outcome))


def garbage_on(queue: str) -> Provoke:
    async def provoke(rig: Rig) -> Awaitable[object]:
        await rig.garbage(queue)
        return asyncio.sleep(0)

    return provoke


async def a_document(rig: Rig) -> Awaitable[object]:
    name = f"{uuid.uuid4().hex}.md"
    (rig.stack.lake / name).write_text(f"# {name}\n\nThe colour of {name} is green.\n")

    async def indexed() -> bool:
        with suppress(TryLater):  # the index itself may be down
            return name in await rig.app.documents()
        return False

    return until(indexed)


LOOP = ("worker.received", "worker.decoded", "worker.recognised", "worker.handled")
WAY_OUT = ("worker.sending", "worker.sent")
SETTLING = ("worker.completing", "worker.settled")
OUTCOME = ("outcome.claiming", "outcome.claimed", "outcome.sent", "outcome.noted")
# What each service comes to, and what brings it there. Points of retries and of leaving have tests of their own.
PLAN: dict[str, dict[str, Provoke]] = {
    "gateway": {
        **dict.fromkeys((*LOOP, *WAY_OUT, *SETTLING, "intake.reserved", "intake.accepted"), a_question),
        **dict.fromkeys(OUTCOME, a_refusal),
        **dict.fromkeys(("worker.dead_lettering", "worker.archiving", "dead.telling", "dead.settled"), poison),
        **dict.fromkeys(("http.taken", "http.enqueued", "outcomes.filing", "outcomes.filed"), a_question_by_http),
    },
    "retriever": {
        **dict.fromkeys((*LOOP, *WAY_OUT, *SETTLING), a_question),
        **dict.fromkeys(("retriever.embedding", "retriever.embedded", "retriever.searched"), a_question),
        **dict.fromkeys((*OUTCOME, "retriever.given_back"), a_question_about_nothing),
        "worker.dead_lettering": garbage_on("retrieve"),
    },
    "generator": {
        **dict.fromkeys((*LOOP, *WAY_OUT, *SETTLING, *OUTCOME), a_question),
        **dict.fromkeys(("generator.calling", "generator.called"), a_question),
        **dict.fromkeys(("generator.kept", "generator.settled", "generator.cached"), a_question),
        "worker.dead_lettering": garbage_on("generate"),
    },
    "indexer": {
        **dict.fromkeys((*LOOP, *SETTLING), a_document),
        **dict.fromkeys(("indexer.looked", "indexer.read", "indexer.parsed", "indexer.embedded"), a_document),
        **dict.fromkeys(("indexer.stored", "indexer.committing", "indexer.committed"), a_document),
        **dict.fromkeys(("indexer.evicted", "indexer.collected"), a_document),
        "worker.dead_lettering": garbage_on("blob-events"),
    },
}
# One question by HTTP is told by HTTP.
ENDS = {
    "answered": 3 + sum(provoke is a_question for points in PLAN.values() for provoke in points.values()),
    "refused": sum(provoke is a_refusal for points in PLAN.values() for provoke in points.values()),
    "no_answer": sum(provoke is a_question_about_nothing for points in PLAN.values() for provoke in points.values()),
    "failed": sum(provoke is poison for points in PLAN.values() for provoke in points.values()),
}
RETRYING = ("worker.retrying", "worker.retried", "breaker.opened", "breaker.half_open")
CANCELLING = (
    ("gateway", "cancel.noted"),
    ("gateway", "cancel.claimed"),
    ("gateway", "cancel.settled"),
    ("generator", "generator.stopped"),
)
LEAVING = ("worker.handing_back", "worker.handed_back")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rig(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rig]:
    folder = tmp_path_factory.mktemp("failpoints")
    traps = folder / "traps"
    # A busy machine must not pass for a Redis that is away: what is counted here depends on the ledger.
    settings = {"RAGBUS_GRACE": GRACE, "RAGBUS_REDIS_TIMEOUT": "2", FOLDER: str(traps)}
    config = a_config(folder / "config")
    async with (
        Stack(folder, ports="free", config=config, workers=NO_WORKERS, lock=LOCK) as stack,
        WorkerPool(stack.folder.logs, inherited({**stack.env(), **settings})) as pool,
        ServiceBusClient.from_connection_string(stack.connection_string) as client,
    ):
        await asyncio.gather(*(pool.add(service, service, {}) for service in PLAN))
        port = pool.workers["gateway"].environment["RAGBUS_HTTP_PORT"]
        app = App(stack, client, f"http://127.0.0.1:{port}")
        rig = Rig(stack, pool, app, client, traps)

        documents = sum(path.is_file() for path in stack.lake.rglob("*"))

        async def indexed() -> bool:
            return len(await app.documents()) >= documents

        await until(indexed)
        yield rig
        await app.close()


def a_config(folder: Path) -> Path:
    """The example's, with tokens for everybody, and a use case whose collection is empty."""
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("handbook", "sources"))
    callers = yaml.safe_load((folder / "callers.yaml").read_text())
    for tenant in callers["tenants"].values():
        tenant["tokens_per_minute"] = 100_000_000
    for caller in callers["callers"]:
        caller["use_cases"] = ["onboarding", "nothing"]
    (folder / "callers.yaml").write_text(yaml.safe_dump(callers))
    use_case = yaml.safe_load((folder / "use_cases" / "onboarding.yaml").read_text())
    (folder / "use_cases" / "nothing.yaml").write_text(
        yaml.safe_dump({**use_case, "name": "nothing", "collection": "empty"})
    )
    return folder


async def test_no_point_is_forgotten() -> None:
    planned = {point for points in PLAN.values() for point in points}
    assert planned | {*RETRYING, *LEAVING, *(point for _, point in CANCELLING)} == set(POINTS)
    assert len(POINTS) >= 40


async def test_a_model_that_was_paid_is_paid_again_only_if_nobody_could_know(rig: Rig) -> None:
    paid = {}
    for point in ("generator.called", "generator.kept", "worker.completing"):
        trap = rig.arm("generator", point)
        paid[point] = asking(await rig.ask())
        await rig.crashed("generator", point, trap)
        await rig.outcomes()
    calls = {point: len(await rig.app.calls(question)) for point, question in paid.items()}
    assert calls == {"generator.called": 2, "generator.kept": 1, "worker.completing": 1}


async def test_every_worker_dies_at_every_point_and_every_request_has_one_outcome(rig: Rig) -> None:
    async def lead(service: str) -> None:
        for point, provoke in PLAN[service].items():
            await rig.crash(service, point, provoke)

    async with asyncio.TaskGroup() as group:
        for service in PLAN:
            group.create_task(lead(service))
    assert await rig.outcomes() == Counter(ENDS)


async def test_workers_die_while_what_they_need_is_down(rig: Rig) -> None:
    """And at what a breaker does: one opens after five failures, so six pieces of work come back again and again."""
    waiting: list[asyncio.Future[object]] = []
    redis = Redis.from_url(rig.stack.redis_url)

    async def lead(service: str, provoke: Provoke) -> None:
        traps = {point: rig.arm(service, point) for point in RETRYING[:1]}
        waiting.extend([asyncio.ensure_future(await provoke(rig)) for _ in range(6)])
        for point in RETRYING:
            await rig.crashed(service, point, traps.get(point) or rig.arm(service, point))
            # As a flush would, so that nobody waits out the longest pause of a breaker here.
            await redis.delete(*[f"ragbus:breaker:{queue}" for queue in ("retrieve", "generate", "blob-events")])

    await rig.app.fail({"deployment": "*", "kind": "chat", "status": 503})
    await lead("generator", a_question)
    await rig.app.fail()
    rig.stack.kill("vectors")
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(lead("retriever", a_question))
            group.create_task(lead("indexer", a_document))
    finally:
        await rig.stack.start_one("vectors")
    await redis.aclose()
    await asyncio.gather(*waiting)
    await rig.outcomes()


@pytest.mark.parametrize(("service", "point"), CANCELLING)
async def test_a_worker_dies_while_a_request_is_cancelled(rig: Rig, service: str, point: str) -> None:
    await rig.app.fail({"deployment": "*", "kind": "chat", "latency": 20})
    number = await rig.ask()
    await rig.in_the_model(number)
    trap = rig.arm(service, point)
    await rig.app.post({"message_id": number}, subject="cancel.v1")
    await rig.crashed(service, point, trap)
    await rig.answered(number)
    await rig.app.fail()
    await rig.outcomes()
    assert [told["outcome"] for told in rig.told if told["correlation_id"] == number] == ["cancelled"]


@pytest.mark.parametrize("point", LEAVING)
async def test_a_worker_dies_while_it_hands_work_back(rig: Rig, point: str) -> None:
    await rig.app.fail({"deployment": "*", "kind": "chat", "latency": 3 + float(GRACE)})
    trap = rig.arm("generator", point)
    await rig.in_the_model(await rig.ask())
    os.kill(rig.pool.workers["generator"].pid, signal.SIGTERM)
    await rig.crashed("generator", point, trap)
    await rig.app.fail()
    await rig.outcomes()
