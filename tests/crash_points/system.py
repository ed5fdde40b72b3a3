"""The system that the crashes happen in: a stack, workers that are started again whenever they end, a proxy between
each worker and each peer, and an upstream app that remembers what it asked and what it was told.
"""

import asyncio
import itertools
import json
import os
import shutil
import signal
import time
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import yaml
from azure.servicebus import ServiceBusMessage
from azure.servicebus.aio import ServiceBusClient, ServiceBusReceiver, ServiceBusSender
from azure.servicebus.exceptions import ServiceBusError
from redis.asyncio import Redis

from local.proxy import Proxy
from local.proxy.control import Control
from local.stack import NO_WORKERS, Stack, StackError
from local.stack.child import ROOT
from local.stack.recipe import inherited
from shared.contracts.deadline import DeadlinePassed
from shared.contracts.ids import request_id
from shared.contracts.request import ReplyTo, Request
from shared.vectors.port import Document
from shared.vectors.qdrant import connect
from shared.vectors.qdrant_registry import QdrantRegistry
from tests.chaos.history import Asked, Interruption, Paid, Replied
from tests.crash_points.trap import FOLDER, LINKS, Folder
from tests.support.worker_pool import WorkerPool, WorkerProcess

EXAMPLE = ROOT / "examples" / "onboarding"
SERVICES = ("gateway", "retriever", "generator", "indexer")
TENANT, CALLER, KEY = "tessolund", "welcome-app", "laptop-key-welcome-app"
# One goes on while another is on its way back.
REPLICAS = 2
# A killed worker's deliveries come back when their lock ends.
LOCK = timedelta(seconds=3)
GRACE = "1"
FIRST, AGAIN = "crash-points", "crash-points-again"
"""The sessions of outcomes, and of what one message alone is told: repeats, and what cannot be read."""
# Long enough for everything that may come back after a lock; short enough for the duplicate window.
LIFE = 240.0
# Guards against hanging: what is waited for takes a few seconds.
PATIENCE = 300.0
_LOOK, _LOOK_AT_PEERS = 0.05, 0.3
_MODEL_FAULTS = (
    {"deployment": "slow", "kind": "chat", "latency": 1.6},  # more than a third of a lock: it is renewed
    {"deployment": "leaving", "kind": "chat", "latency": float(GRACE) + 3.0},
    {"deployment": "stuck", "kind": "chat", "latency": 30.0},
    {"deployment": "busy", "kind": "chat", "status": 429, "retry_after": 1.0},
)


@dataclass(slots=True)
class Told:
    """What the upstream app knows when all is over."""

    asked: dict[str, Asked] = field(default_factory=dict)
    """By mark."""
    replied: list[Replied] = field(default_factory=list)
    by_http: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    """The outcomes that HTTP gave, by mark."""
    alone: set[str] = field(default_factory=set)
    """The marks of messages that are told something of their own."""
    kills: list[Interruption] = field(default_factory=list)
    deaths: list[str] = field(default_factory=list)
    """Workers that ended in another way than by a trap or by being asked to."""

    def replies(self, mark: str, session: str = FIRST) -> list[Replied]:
        return [reply for reply in self.replied if reply.correlation_id == mark and reply.session == session]


class System:
    """What scenarios act on."""

    def __init__(self, stack: Stack, pool: WorkerPool, folder: Folder, client: ServiceBusClient) -> None:
        self.stack = stack
        self.pool = pool
        self.folder = folder
        self.told = Told()
        self.documents: dict[str, Document] = {}
        """What the index says, by path; looked up again all the time."""
        self.calls: list[dict[str, Any]] = []
        """What the models were asked; looked up again all the time."""
        self.charged: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
        """The calls that requests were charged for, by request id."""
        self.proxies: dict[str, list[Proxy]] = {}
        self.http = httpx.AsyncClient(timeout=60)
        self._client = client
        self._senders: dict[str, ServiceBusSender] = {}
        self._lock = asyncio.Lock()  # the SDK's senders are not safe to share between tasks
        self._leaving: set[str] = set()

    # -- asking

    async def post(self, body: Any, *, queue: str = "ask", **properties: Any) -> None:
        """Send a message."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        given = {"subject": "ask.v1", "message_id": uuid.uuid4().hex, "content_type": "application/json", **properties}
        async with self._lock:
            if queue not in self._senders:
                self._senders[queue] = self._client.get_queue_sender(queue)
            await self._senders[queue].send_messages(ServiceBusMessage(raw, **given))

    async def ask(
        self,
        mark: str,
        *,
        use_case: str = "onboarding",
        question: str | None = None,
        life: float = LIFE,
        session: str = FIRST,
        raw: bytes | None = None,
        cache: str = "refresh",
    ) -> None:
        """Ask `question`; left out: one that was not asked before."""
        asked = question or question_of(mark)
        if session == FIRST:
            self._remember(mark, asked, session, life)
        else:
            self.told.alone.add(mark)
        body = raw or {"question": asked, "use_case": use_case, "cache": cache}
        life_left = timedelta(seconds=life)
        await self.post(body, message_id=mark, reply_to_session_id=session, time_to_live=life_left)

    async def ask_by_http(self, mark: str, use_case: str = "onboarding") -> None:
        """Ask until the request is accepted and its outcome is there, under one key, as a client should."""
        self.folder.name(request_id(TENANT, CALLER, f"http/{mark}", "http"), mark)
        headers = {"Authorization": f"Bearer {KEY}", "Idempotency-Key": mark}
        body = {"question": question_of(mark), "cache": "refresh"}
        for number in itertools.cycle(range(REPLICAS)):
            port = self.pool.workers[f"gateway-{number}"].environment["RAGBUS_HTTP_PORT"]
            with suppress(httpx.TransportError):
                reply = await self.http.post(
                    f"http://127.0.0.1:{port}/v1/{use_case}/ask?wait=10", json=body, headers=headers
                )
                if reply.status_code == httpx.codes.OK:
                    self.told.by_http[mark].append(reply.json()["outcome"])
                    return
            await asyncio.sleep(_LOOK)

    async def let_pass(self, mark: str) -> None:
        """Send the gateway the sentinel of a request of which nothing else is left."""
        late = datetime.now(UTC) - timedelta(seconds=1)
        request = Request(
            request_id=request_id(TENANT, CALLER, mark),
            tenant=TENANT,
            caller=CALLER,
            groups=("employees",),
            use_case="onboarding",
            question="",
            accepted_at=late - timedelta(seconds=60),
            answer_by=late,
            correlation_id=mark,
            reply_to=ReplyTo(queue="answers", session=FIRST),
        )
        self._remember(mark, question_of(mark), FIRST, life=-1.0)
        sentinel = DeadlinePassed(request=request)
        message_id = f"{request.request_id}/deadline"
        await self.post(sentinel.encode(), queue="outcomes", subject=sentinel.kind, message_id=message_id)

    def _remember(self, mark: str, question: str, session: str, life: float) -> None:
        self.told.asked[mark] = Asked(
            request_id=request_id(TENANT, CALLER, mark),
            message_id=mark,
            caller=CALLER,
            question=question,
            reply_queue="answers",
            session=session,
            deadline=time.time() + life,
        )

    async def in_the_model(self, mark: str) -> None:
        """Wait until a model is at work on the question of `mark`."""
        await until(lambda: any(call["question"] == question_of(mark) for call in self.calls))

    async def leave(self, service: str) -> None:
        """Ask the workers of `service` to go, as Kubernetes does."""
        for worker in self.pool.workers.values():
            if worker.service == service and self.pool.is_alive(worker):
                self._leaving.add(worker.name)
                with suppress(ProcessLookupError):  # a trap was quicker
                    os.kill(worker.pid, signal.SIGTERM)

    # -- beside everything else

    async def keep_alive(self, worker: WorkerProcess) -> None:
        """Start `worker` again whenever it has ended."""
        while True:
            await worker.gone.wait()
            self.told.kills.append(Interruption(f"{worker.service} killed", time.time()))
            for proxy in self.proxies[worker.name]:
                proxy.set()
            await self.pool.start(worker)

    def judge_deaths(self) -> None:
        """A worker may end by a trap, and by being asked to leave; note what ended otherwise."""
        for death in self.pool.deaths:
            # One that has just been started is ended by the signal itself.
            in_order = "status 0;" in death or f"status {-signal.SIGTERM};" in death
            left = in_order and death.partition(" ")[0] in self._leaving
            if "status -9;" not in death and not left:
                self.told.deaths.append(death)
        self.pool.deaths.clear()

    async def listen(self, session: str) -> None:
        """Note what comes in a session."""
        while True:
            # The lock of a session is as short as the others here, and is not renewed.
            with suppress(ServiceBusError):
                async with self._client.get_queue_receiver("answers", session_id=session) as receiver:
                    while True:
                        await self._take(receiver)

    async def _take(self, receiver: ServiceBusReceiver) -> None:
        for message in await receiver.receive_messages(max_message_count=50, max_wait_time=1):
            reply = Replied.of(
                "answers",
                json.loads(str(message)),
                session=message.session_id or "",
                sequence=message.sequence_number or 0,
                message_id=message.message_id or "",
                at=time.time(),
            )
            if reply.sequence not in {known.sequence for known in self.told.replied}:
                self.told.replied.append(reply)
            await receiver.complete_message(message)

    async def look(self) -> None:
        """Keep `documents` and `calls` up to date."""
        store = connect(self.stack.qdrant_url)
        try:
            while True:
                with suppress(Exception):  # the index may be down for a moment
                    self.documents = {
                        entry.path: entry async for entry in QdrantRegistry(store).entries(container="handbook")
                    }
                with suppress(httpx.TransportError):  # an idle connection that has just been closed
                    self.calls = (await self.http.get(f"{self.stack.llm_url}/control/calls")).json()
                await asyncio.sleep(_LOOK_AT_PEERS)
        finally:
            await store.close()

    async def fail_models(self, *more: Mapping[str, Any]) -> None:
        """Have the models fail as the scenarios want, and as `more` says before that."""
        rules = [*more, *_MODEL_FAULTS]
        (await self.http.post(f"{self.stack.llm_url}/control/faults", json=rules)).raise_for_status()

    def paid(self) -> list[Paid]:
        """The chat calls that were charged."""
        return [Paid(call["question"], call["at"]) for call in self.calls if _is_paid(call)]

    async def look_at_charges(self) -> None:
        """Read from Redis what each request was charged for."""
        async with Redis.from_url(self.stack.redis_url, decode_responses=True) as redis:
            async for key in redis.scan_iter("ragbus:*:budget:calls:*"):
                request = key.rpartition(":calls:")[2].partition("/")[0]
                self.charged[request] += [json.loads(line[6:]) for line in await redis.hvals(key)]

    def charged_to(self, mark: str) -> list[dict[str, Any]]:
        """The calls that the work of `mark` was charged for, however it was asked."""
        by_http = request_id(TENANT, CALLER, f"http/{mark}", "http")
        return [*self.charged[request_id(TENANT, CALLER, mark)], *self.charged[by_http]]

    async def queues(self) -> dict[str, dict[str, Any]]:
        """What is in each queue."""
        async with httpx.AsyncClient(timeout=60) as admin:
            found: dict[str, dict[str, Any]] = (await admin.get(f"{self.stack.admin_url}/stats")).json()
        return found

    async def close(self) -> None:
        """Hang up."""
        for sender in self._senders.values():
            await sender.close()
        await self.http.aclose()


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[System]:
    """The system in `folder`, with the handbook indexed."""
    traps = Folder(folder / "traps")
    async with AsyncExitStack() as closing:
        # A busy machine must not pass for a Redis that is away: what is counted here depends on the ledger.
        settings = {"RAGBUS_GRACE": GRACE, "RAGBUS_REDIS_TIMEOUT": "5", FOLDER: str(traps.path)}
        config = _a_config(folder / "config")
        stack = await closing.enter_async_context(
            Stack(
                folder / "stack",
                ports="free",
                config=config,
                workers=NO_WORKERS,
                lock=LOCK,
                ingress_windows={"ask": timedelta(seconds=1)},
            )
        )
        pool = await closing.enter_async_context(WorkerPool(stack.folder.logs, inherited({**stack.env(), **settings})))
        client = await closing.enter_async_context(ServiceBusClient.from_connection_string(stack.connection_string))
        system = System(stack, pool, traps, client)
        closing.push_async_callback(system.close)
        await system.fail_models()
        await asyncio.gather(*(_add(system, service, n, closing) for service in SERVICES for n in range(REPLICAS)))
        beside = [
            *(system.keep_alive(worker) for worker in pool.workers.values()),
            *(system.listen(session) for session in (FIRST, AGAIN)),
            system.look(),
        ]
        if pool.deaths:
            raise StackError("; ".join(pool.deaths))
        async with asyncio.TaskGroup() as group:  # if one of them fails, so does the run
            tasks = [group.create_task(each) for each in beside]
            count = sum(path.is_file() for path in stack.lake.rglob("*"))
            await until(lambda: sum(each.is_live and each.finished for each in system.documents.values()) >= count)
            yield system
            for task in tasks:
                task.cancel()


async def _add(system: System, service: str, number: int, closing: AsyncExitStack) -> None:
    """Start a worker of `service`, with a proxy of its own to each peer."""
    name = f"{service}-{number}"
    at, ports, controls = system.stack.addresses, {}, {}
    peers = {
        "bus": at.broker,
        "redis": httpx.URL(at.redis_url).port or 0,
        "vectors": httpx.URL(at.qdrant_url).port or 0,
        "models": httpx.URL(at.llm_url).port or 0,
    }
    system.proxies[name] = []
    for peer, port in peers.items():
        proxy = await closing.enter_async_context(Proxy("127.0.0.1", port))
        control = Control(proxy)
        controls[peer] = f"http://127.0.0.1:{await control.start('127.0.0.1', 0)}"
        closing.push_async_callback(control.stop)
        system.proxies[name].append(proxy)
        ports[peer] = proxy.port
    own = {
        "RAGBUS_REDIS_URL": f"redis://127.0.0.1:{ports['redis']}/0",
        "RAGBUS_QDRANT_URL": f"http://127.0.0.1:{ports['vectors']}",
        "RAGBUS_MODEL_ENDPOINT": f"http://127.0.0.1:{ports['models']}",
        "RAGBUS_MODEL_ENDPOINT_2": f"http://127.0.0.1:{ports['models']}",
        "RAGBUS_SERVICEBUS_CONNECTION_STRING": at.connection_string.replace(f":{at.broker};", f":{ports['bus']};"),
        LINKS: " ".join(f"{peer}={url}" for peer, url in controls.items()),
    }
    await system.pool.add(name, service, own)


def _a_config(folder: Path) -> Path:
    """The example's, with tokens enough for every tenant, and a use case for each way a model or an index can be."""
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("handbook", "sources"))
    callers = yaml.safe_load((folder / "callers.yaml").read_text())
    for tenant in callers["tenants"].values():
        tenant["tokens_per_minute"] = 100_000_000
    models = yaml.safe_load((folder / "models.yaml").read_text())
    use_case = yaml.safe_load((folder / "use_cases" / "onboarding.yaml").read_text())
    first = models["deployments"][0]
    changed: dict[str, dict[str, Any]] = {"empty": {"collection": "empty"}}
    for fault in _MODEL_FAULTS:
        name = str(fault["deployment"])
        models["deployments"].append({**first, "name": name, "model": name})
        changed[name] = {"deployments": [name]}
    for name, change in changed.items():
        (folder / "use_cases" / f"{name}.yaml").write_text(yaml.safe_dump({**use_case, "name": name, **change}))
    for caller in callers["callers"]:
        caller["use_cases"] = ["onboarding", *changed]
    (folder / "callers.yaml").write_text(yaml.safe_dump(callers))
    (folder / "models.yaml").write_text(yaml.safe_dump(models))
    return folder


def question_of(mark: str) -> str:
    """The question that only the work of `mark` asks."""
    return f"What are the core hours for remote workers? ({mark})"


async def until(is_so: Callable[[], Any], patience: float = PATIENCE) -> None:
    """Look again and again until it is so; `TimeoutError` when that never comes."""
    async with asyncio.timeout(patience):
        while not is_so():
            await asyncio.sleep(_LOOK)


def _is_paid(call: Mapping[str, Any]) -> bool:
    return bool(call["kind"] == "chat" and call["status"] == httpx.codes.OK)
