"""Microsoft's emulator takes ten connections in all. The compose profile stays within, with one upstream app.

The settings are read from docker-compose.yml, so that what is counted is what is shipped; the broker is ours, which
counts every connection (the emulator's image cannot be run everywhere).
"""

import json
import shutil
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
import yaml
from azure.servicebus import ServiceBusMessage
from azure.servicebus.aio import ServiceBusClient

from local.stack import Stack
from tests.support.waiting import PATIENCE, until

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.long]

ROOT = Path(__file__).parents[2]
EMULATOR_TAKES = 10
WORKERS = ("gateway", "retriever", "generator", "indexer")


def budgets() -> dict[str, dict[str, str]]:
    """What docker-compose.yml gives each worker."""
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    return {
        name: {"RAGBUS_BUS_CONNECTIONS": services[name]["environment"]["RAGBUS_BUS_CONNECTIONS"]} for name in WORKERS
    }


def the_compose_config(folder: Path) -> Path:
    """The configuration files that compose mounts."""
    folder.mkdir()
    shutil.copy(ROOT / "deploy/compose/callers.yaml", folder)
    shutil.copytree(ROOT / "deploy/compose/use_cases", folder / "use_cases")
    for name in ("models.yaml", "sources.yaml"):
        shutil.copy(ROOT / "examples/onboarding" / name, folder)
    return folder


@pytest_asyncio.fixture(loop_scope="session")
async def stack(tmp_path: Path) -> AsyncIterator[Stack]:
    config = the_compose_config(tmp_path / "config")
    settings = {**budgets(), "*": {"RAGBUS_GRACE": "3"}}
    settings["gateway"]["RAGBUS_DUPLICATE_WINDOW"] = "300"
    async with Stack(
        tmp_path / "state", ports="free", config=config, settings=settings, lake=False, patience=PATIENCE
    ) as running:
        yield running


async def test_compose_stays_within_ten_connections_with_one_upstream_app(stack: Stack) -> None:
    async with httpx.AsyncClient(base_url=stack.admin_url) as admin:
        (await admin.post("/connections/reset-peak")).raise_for_status()
        await tell_of_a_document(stack, "remote-work.md")
        # Broken asks too: their way leads through `dead`, whose poll needs a connection of its own.
        asked = [await post(stack, body) for body in (*[QUESTION] * 3, b"{broken")]
        outcomes = [await answer(stack, session) for session in asked]
        peak = (await admin.get("/connections")).json()["peak"]
    assert [outcome["outcome"] for outcome in outcomes][-1] == "failed"
    assert {outcome["outcome"] for outcome in outcomes[:3]} <= {"answered", "no_answer"}
    assert peak <= EMULATOR_TAKES


QUESTION = json.dumps({"question": "What are the core hours for remote workers?"}).encode()


async def tell_of_a_document(stack: Stack, name: str) -> None:
    event = {
        "id": uuid.uuid4().hex,
        "topic": "",
        "subject": f"/blobServices/default/containers/handbook/blobs/{name}",
        "eventType": "Microsoft.Storage.BlobCreated",
        "eventTime": "2026-01-01T00:00:00Z",
        "data": {"api": "PutBlob"},
        "dataVersion": "",
    }
    await send(stack, "blob-events", ServiceBusMessage(json.dumps(event), message_id=str(event["id"])))


async def post(stack: Stack, body: bytes) -> str:
    session = uuid.uuid4().hex
    await send(stack, "ask", ServiceBusMessage(body, message_id=session, subject="ask.v1", reply_to_session_id=session))
    return session


async def send(stack: Stack, queue: str, message: ServiceBusMessage) -> None:
    """One connection at a time, as the profile asks of an app: it is closed before the next is opened."""
    async with (
        ServiceBusClient.from_connection_string(stack.connection_string) as client,
        client.get_queue_sender(queue) as sender,
    ):
        await sender.send_messages(message)


async def answer(stack: Stack, session: str) -> dict[str, Any]:
    async def received() -> Any:
        async with (
            ServiceBusClient.from_connection_string(stack.connection_string) as client,
            client.get_queue_receiver("answers", session_id=session) as receiver,
        ):
            for message in await receiver.receive_messages(max_wait_time=30):
                await receiver.complete_message(message)
                return json.loads(str(message))
        return None

    return dict(await until(received))
