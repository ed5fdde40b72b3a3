"""The whole system with llama.cpp's own server as its model; vectors stay with the local stand-in.

Skipped where the wheels of `.venv-selfhosted` are not installed (`make test-selfhosted` does it).
"""

import re
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from azure.servicebus.aio import ServiceBusClient

from local.stack import Stack
from local.stack.stack import EXAMPLE
from tests.conftest import free_port
from tests.support.configuration import configuration
from tests.support.waiting import PATIENCE, until
from tests.system.conftest import LONGEST, App

ROOT = Path(__file__).parents[2]
ENVIRONMENT = ROOT / ".venv-selfhosted"
# Of a slot. A prompt of two passages and its answer fit.
WINDOW = 1024
SLOTS = 2
# What a deployment may claim to have. A prompt that fills it is too long for the server, and one a quarter smaller
# is not.
CLAIMED = 1500
ANSWER = 24
LONG_ANSWER = 600
DOCUMENTS = ("remote-work.md", "probation-and-notice.md", "faq.md")


@dataclass
class LlamaServer:
    """A running server, as its own pages show it."""

    url: str
    log: Path

    async def slots(self) -> list[dict[str, Any]]:
        """What each slot does."""
        async with httpx.AsyncClient(timeout=PATIENCE) as http:
            found: list[dict[str, Any]] = (await http.get(f"{self.url}/slots")).raise_for_status().json()
        return found

    async def busy(self) -> int:
        """How many slots work on a call."""
        return sum(slot["is_processing"] for slot in await self.slots())

    async def tokens(self) -> tuple[int, int]:
        """The tokens of all prompts and all answers since the start, of finished calls."""
        async with httpx.AsyncClient(timeout=PATIENCE) as http:
            shown = (await http.get(f"{self.url}/metrics")).raise_for_status().text
        count = {
            name: int(float(value)) for name, value in re.findall(r"^llamacpp:(\w+_total) (\S+)$", shown, re.MULTILINE)
        }
        return count["prompt_tokens_total"] + count["prompt_tokens_cached_total"], count["tokens_predicted_total"]


@contextmanager
def llama_server(log: Path) -> Iterator[LlamaServer]:
    """Start the server; skip the test where it cannot be had."""
    if not (ENVIRONMENT / ".ready").exists():
        lacks = ENVIRONMENT / "lacks"
        why = lacks.read_text().strip().splitlines()[-1:] if lacks.exists() else ["run `make test-selfhosted`"]
        pytest.skip(f"xllamacpp is not installed in {ENVIRONMENT.name}: {''.join(why)}")
    program = [ENVIRONMENT / "bin" / "python", Path(__file__).with_name("llama_server.py")]
    with (
        log.open("wb") as errors,
        subprocess.Popen(
            [*program, "--context", str(WINDOW), "--slots", str(SLOTS)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
        ) as process,
    ):
        try:
            assert process.stdout is not None
            address = process.stdout.readline().decode().strip()
            assert address, f"llama.cpp did not start:\n{log.read_text()[-2000:]}"
            yield LlamaServer(address, log)
        finally:
            process.kill()


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaServer]:
    """One server for all tests."""
    with llama_server(tmp_path_factory.mktemp("llama") / "server.log") as running:
        yield running


def configured(folder: Path, llama: LlamaServer) -> Path:
    """A configuration with these use cases: whole, streamed, overflow, failover, endless."""

    def chat(name: str, **changes: Any) -> dict[str, Any]:
        given = {
            "name": name,
            "provider": "compatible",
            "dialect": "llamacpp",
            "endpoint": f"{llama.url}/v1",
            "model": "gemma",
            "context_window": WINDOW,
            "price": {"input": 1.0, "output": 2.0},
        }
        return given | changes

    deployments = [
        chat("whole", stream=False),
        chat("streamed", stream=True),
        chat("overflow", context_window=CLAIMED),
        chat("dead", endpoint=f"http://127.0.0.1:{free_port()}/v1", priority=1),
        chat("alive", priority=2),
        # Nothing that it says ends its answer.
        chat("endless", stream=True, body={"ignore_eos": True}),
    ]
    common = {
        "prompt": "Answer from the passages, and cite them like [1].",
        "answer_tokens": ANSWER,
        "question_tokens": 200,
        "deadline": {"default": LONGEST.total_seconds(), "longest": LONGEST.total_seconds()},
        "retrieval": {"candidates": 1},
    }
    use_cases: dict[str, dict[str, Any]] = {
        "whole": {"deployments": ["whole"]},
        "streamed": {"deployments": ["streamed"]},
        "overflow": {"deployments": ["overflow"], "retrieval": {"candidates": 30}},
        "failover": {"deployments": ["dead", "alive"]},
        "endless": {"deployments": ["endless"], "answer_tokens": LONG_ANSWER},
    }
    return configuration(
        folder,
        deployments,
        {name: common | own for name, own in use_cases.items()},
        # A day of UTC: so that what was spent can be compared.
        tenants={"tessolund": {"budget": {"tokens": {"day": 10_000_000}, "usd": {"day": 100}}}},
    )


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def app(llama: LlamaServer, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[App]:
    """An upstream app of the whole system, with a few documents indexed."""
    folder = tmp_path_factory.mktemp("ragbus")
    documents = folder / "documents"
    documents.mkdir()
    for name in DOCUMENTS:
        shutil.copy(EXAMPLE / "handbook" / name, documents)
    settings = {"*": {"RAGBUS_REDIS_TIMEOUT": "1", "RAGBUS_MODEL_TIMEOUT": str(LONGEST.total_seconds())}}
    async with (
        Stack(
            folder / "stack",
            ports="free",
            config=configured(folder / "config", llama),
            documents=documents,
            settings=settings,
            patience=PATIENCE,
        ) as stack,
        ServiceBusClient.from_connection_string(stack.connection_string) as client,
    ):
        app = App(stack, client)

        async def indexed() -> bool:
            return set(await app.documents()) >= set(DOCUMENTS)

        await until(indexed)
        yield app
        await app.close()
