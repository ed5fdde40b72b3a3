"""The whole system for the system tests: one real stack, an upstream app with the plain SDK, a trace collector."""

import asyncio
import gzip
import json
import random
import secrets
import threading
import uuid
from collections.abc import AsyncIterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from azure.servicebus import ServiceBusMessage, ServiceBusReceivedMessage
from azure.servicebus.aio import ServiceBusClient, ServiceBusSender
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from local.stack import Stack
from shared.vectors.qdrant import connect
from shared.vectors.qdrant_registry import QdrantRegistry
from tests.support.waiting import PATIENCE, until

# Not the shipped one: killed workers' messages come back when their lock ends, and no test waits a minute for that.
LOCK = timedelta(seconds=6)
# One caller's repeats reach the gateway at once; a test of them need not wait for a minute.
INGRESS_WINDOWS = {"ask-hr": timedelta(seconds=1)}
# The longest deadline of the use case, not its usual minute: on a busy machine an answer may take that long.
LONGEST = timedelta(seconds=300)
KEYS = {"ask": "laptop-key-welcome-app", "ask-hr": "laptop-key-hr-portal"}
# A busy machine must not look like a Redis that is away; what that costs is seen in test_dependencies_down.py.
PATIENT = {"RAGBUS_REDIS_TIMEOUT": "1"}
SETTINGS = {"*": {"RAGBUS_GRACE": "5", "OTEL_BSP_SCHEDULE_DELAY": "200", **PATIENT}}


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--sample N`: only so many of the cases that are drawn by `--seed`; see test_misbehaving_models.py."""
    parser.addoption("--sample", type=int, help="run so many of the cases of a provider's misbehaviour")
    parser.addoption("--seed", type=int, default=secrets.randbelow(100_000), help="the same sample again")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the cases that are not in the sample."""
    # The SDK never closes the socket of a sender that was cut off, such as by a test before that killed the broker.
    # Nothing else in this process has sockets but HTTP clients; the workers are processes of their own.
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"))
    drawn = [item for item in items if item.get_closest_marker("misbehaving") and "[" in item.name]
    most, seed = config.getoption("--sample"), config.getoption("--seed")
    if most is None or len(drawn) <= most:
        return
    left_out = {*drawn} - {*random.Random(seed).sample(drawn, most)}
    config.hook.pytest_deselected(items=sorted(left_out, key=drawn.index))
    items[:] = [item for item in items if item not in left_out]
    config.get_terminal_writer().line(f"a sample of {most} misbehaviours, seed {seed}")


class Collector:
    """Receives OTLP over HTTP, as a collector would."""

    def __init__(self) -> None:
        collector = self
        self.spans: list[dict[str, Any]] = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                if self.path == "/v1/traces":
                    collector.take(ExportTraceServiceRequest.FromString(body))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def take(self, sent: Any) -> None:
        for resource in sent.resource_spans:
            service = next(a.value.string_value for a in resource.resource.attributes if a.key == "service.name")
            for scope in resource.scope_spans:
                self.spans += [
                    {
                        "service": service,
                        "name": span.name,
                        "trace": span.trace_id.hex(),
                        "id": span.span_id.hex(),
                        "parent": span.parent_span_id.hex(),
                    }
                    for span in scope.spans
                ]

    def of(self, trace_id: str) -> list[dict[str, Any]]:
        return [span for span in list(self.spans) if span["trace"] == trace_id]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class App:
    """An upstream app: the plain SDK, and the contract's JSON."""

    def __init__(self, stack: Stack, client: ServiceBusClient, gateway_url: str | None = None) -> None:
        self.stack = stack
        self.http = httpx.AsyncClient(base_url=gateway_url or stack.gateway_url, timeout=PATIENCE)
        self.control = httpx.AsyncClient(base_url=stack.llm_url, timeout=PATIENCE)
        self._client = client
        self._senders: dict[str, ServiceBusSender] = {}
        self._lock = asyncio.Lock()  # the SDK's senders are not safe to share between tasks

    async def post(self, body: dict[str, Any] | bytes, queue: str = "ask", **properties: Any) -> str:
        """Send an ask; says which session its answer comes in."""
        given = {
            "message_id": uuid.uuid4().hex,
            "subject": "ask.v1",
            "reply_to_session_id": uuid.uuid4().hex,
            "content_type": "application/json",
            "time_to_live": LONGEST,
            **properties,
        }
        raw = body if isinstance(body, bytes) else json.dumps(body)
        async with self._lock:
            sender = self._senders.get(queue)
            if sender is None:
                sender = self._senders[queue] = self._client.get_queue_sender(queue)
            await sender.send_messages(ServiceBusMessage(raw, **given))
        return str(given["reply_to_session_id"])

    async def answers(
        self, session: str, *, queue: str = "answers", wait: float = PATIENCE, more: float = 0.0
    ) -> list[dict[str, Any]]:
        """What comes in a session: the first message within `wait`, and what follows it within `more`."""
        found: list[ServiceBusReceivedMessage] = []
        async with self._client.get_queue_receiver(queue, session_id=session) as receiver:
            while got := await receiver.receive_messages(max_wait_time=more if found else wait):
                for message in got:
                    await receiver.complete_message(message)
                found += got
                if not more:
                    break
        return [{**json.loads(str(message)), "message_id": message.message_id} for message in found]

    async def answers_waiting(self, session: str, queue: str = "answers") -> int:
        """How many answers wait in a session that no client receives from."""
        async with self._client.get_queue_receiver(queue, session_id=session) as receiver:
            return len(await receiver.peek_messages(max_message_count=10))

    async def ask(self, question: str, **properties: Any) -> dict[str, Any]:
        """Ask and wait for the one answer."""
        session = await self.post({"question": question, "use_case": "onboarding"}, **properties)
        queue = {"ask-hr": "answers-hr"}.get(properties.get("queue", "ask"), "answers")
        [answer] = await self.answers(session, queue=queue)
        return answer

    def key(self, queue: str = "ask") -> dict[str, str]:
        return {"Authorization": f"Bearer {KEYS[queue]}"}

    async def fail(self, *rules: dict[str, Any]) -> None:
        """Make the model misbehave."""
        (await self.control.post("/control/faults", json=list(rules))).raise_for_status()

    async def calls(self, question: str) -> list[dict[str, Any]]:
        """The paid chat calls for a question."""
        found = (await self.control.get("/control/calls")).raise_for_status().json()
        return [
            call for call in found if call["kind"] == "chat" and call["status"] == 200 and call["question"] == question
        ]

    async def documents(self) -> dict[str, Any]:
        """The live documents of the index, by path."""
        store = connect(self.stack.qdrant_url)
        try:
            entries = [entry async for entry in QdrantRegistry(store).entries(container="handbook")]
        finally:
            await store.close()
        return {entry.path: entry for entry in entries if entry.is_live and entry.finished}

    async def peek(self, queue: str, *, sub_queue: str | None = None) -> list[ServiceBusReceivedMessage]:
        """What is on a queue, scheduled messages too."""
        found: list[ServiceBusReceivedMessage] = []
        async with self._client.get_queue_receiver(queue, sub_queue=sub_queue) as receiver:
            while page := await receiver.peek_messages(
                max_message_count=250, sequence_number=(found[-1].sequence_number or 0) + 1 if found else 1
            ):
                found += page
        return found

    async def dead(self, queue: str = "dead") -> list[ServiceBusReceivedMessage]:
        """What is archived in a dead-letter queue."""
        return await self.peek(queue, sub_queue="deadletter")

    async def hang_up(self) -> None:
        """Leave the broker before it is killed: the SDK would leak the socket of a connection that breaks."""
        for sender in self._senders.values():
            await sender.close()
        self._senders.clear()

    async def close(self) -> None:
        await self.hang_up()
        await self.http.aclose()
        await self.control.aclose()


@pytest.fixture(scope="session")
def collector() -> Any:
    found = Collector()
    yield found
    found.close()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def stack(tmp_path_factory: pytest.TempPathFactory, collector: Collector) -> AsyncIterator[Stack]:
    """The whole system on free ports, with the handbook indexed."""
    folder: Path = tmp_path_factory.mktemp("ragbus")
    settings = {**SETTINGS, "*": {**SETTINGS["*"], "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}}
    async with Stack(
        folder, ports="free", settings=settings, lock=LOCK, ingress_windows=INGRESS_WINDOWS, patience=PATIENCE
    ) as running:
        yield running


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def indexed(stack: Stack) -> AsyncIterator[App]:
    async with ServiceBusClient.from_connection_string(stack.connection_string) as client:
        app = App(stack, client)
        expected = {path.relative_to(stack.lake).as_posix() for path in stack.lake.rglob("*") if path.is_file()}

        async def everything_indexed() -> bool:
            return set(await app.documents()) >= expected

        await until(everything_indexed)
        yield app
        await app.close()


@pytest_asyncio.fixture(loop_scope="session")
async def app(indexed: App) -> AsyncIterator[App]:
    """An app on a running system whose model behaves."""
    yield indexed
    await indexed.fail()
