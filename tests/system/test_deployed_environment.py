"""A worker with exactly the variables that its manifest gives it, and no optional secret, starts and is ready."""

import asyncio
import json
import os
import re
import subprocess
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

from local.stack import NO_WORKERS, Stack
from local.stack.stack import EXAMPLE
from ops.commands.queues import administration
from ops.target import Target
from tests.conftest import free_port
from tests.support.manifests import (
    ROOT,
    WORKERS,
    config_folder,
    image_environment,
    literals,
    own_environment,
    secrets,
)
from tests.support.redis_cluster import Node
from tests.support.waiting import PATIENCE, until
from tests.system.conftest import KEYS

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.long]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cloud(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """What is in Azure: broker, Redis, Qdrant and models; no worker."""
    async with Stack(
        tmp_path_factory.mktemp("cloud"), ports="free", workers=NO_WORKERS, lake=False, patience=PATIENCE
    ) as stack:
        yield stack


def deployed(worker: str, cloud: Stack, health: int) -> dict[str, str]:
    """The environment of a worker's container: that of the image, the ConfigMap, the manifest, the required secrets.

    Addresses are those of this machine; the namespace, which is reached by identity, is a connection string.
    """
    own = {name: value for name, value in own_environment(worker).items() if value is not None}
    told = {**image_environment(), **literals("ragbus-settings"), **own}
    here = {
        "RAGBUS_CONFIG": str(config_folder()),
        "RAGBUS_HEALTH_PORT": str(health),
        "RAGBUS_HTTP_PORT": "0",
        "RAGBUS_QDRANT_URL": cloud.qdrant_url,
        "RAGBUS_MODEL_ENDPOINT": cloud.llm_url,
        "RAGBUS_MODEL_ENDPOINT_2": cloud.llm_url,
    }
    kept = {"RAGBUS_REDIS_URL": cloud.redis_url, "RAGBUS_CACHE_SECRET": "0123456789abcdef"}
    needed = {name: kept[name] for name, required in secrets(worker).items() if required}
    told = {**told, **{name: value for name, value in here.items() if name in told}, "RAGBUS_HTTP_PORT": "0", **needed}
    del told["RAGBUS_SERVICEBUS_NAMESPACE"]
    return {**told, "RAGBUS_SERVICEBUS_CONNECTION_STRING": cloud.connection_string, "PATH": os.environ["PATH"]}


@asynccontextmanager
async def running(worker: str, environment: dict[str, str], log: Path) -> AsyncIterator[Process]:
    with log.open("wb") as out:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", f"services.{worker}"), cwd=ROOT, env=environment, stdout=out, stderr=out
        )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
        await asyncio.wait_for(process.wait(), PATIENCE)


async def started(worker: str, cloud: Stack, log: Path) -> str:
    """Wait until the worker is ready; what its `/metrics` shows then."""
    health = free_port()
    async with running(worker, deployed(worker, cloud, health), log) as process, httpx.AsyncClient(timeout=300) as http:

        async def ready() -> bool:
            assert process.returncode is None, log.read_text("utf-8")
            try:
                answers = [await http.get(f"http://127.0.0.1:{health}/{path}") for path in ("readyz", "connected")]
            except httpx.TransportError:
                return False
            return all(answer.status_code == 200 for answer in answers)

        await until(ready)
        return (await http.get(f"http://127.0.0.1:{health}/metrics")).text


async def test_a_worker_starts_with_what_its_manifest_requires(cloud: Stack, tmp_path: Path) -> None:
    for shown in await asyncio.gather(*(started(worker, cloud, tmp_path / worker) for worker in WORKERS)):
        lines = shown.splitlines()
        assert next(line for line in lines if line.startswith("ragbus_redis_up{")).endswith(" 1.0")
        assert all(line.endswith(" 1.0") for line in lines if line.startswith("ragbus_queue_connected{"))


async def test_a_missing_queue_does_not_close_the_http_endpoint(cloud: Stack, tmp_path: Path) -> None:
    health, port, log = free_port(), free_port(), tmp_path / "log"
    environment = {**deployed("gateway", cloud, health), "RAGBUS_HTTP_PORT": str(port), "RAGBUS_CONFIG": str(EXAMPLE)}
    probe, ask = f"http://127.0.0.1:{health}", f"http://127.0.0.1:{port}/v1/onboarding/ask"
    key = {"Authorization": f"Bearer {KEYS['ask']}"}
    async with running("gateway", environment, log), httpx.AsyncClient(timeout=PATIENCE) as http:

        async def told(path: str, status: int, words: str) -> bool:
            try:
                answer = await http.get(probe + path)
            except httpx.TransportError:
                return False
            return answer.status_code == status and words in answer.text

        await until(lambda: told("/connected", 200, "ask-hr: connected"))
        with administration(Target(cloud.env(), "this test")) as operator:
            await asyncio.to_thread(operator.delete_queue, "ask-hr")
        await until(lambda: told("/connected", 503, "ask-hr: not connected: "))
        assert await told("/readyz", 200, "ask: connected\n")
        assert (await http.post(ask, json={"question": "Why?"}, headers=key)).status_code == 202
        shown = (await http.get(f"{probe}/metrics")).text
        assert re.search(r'^ragbus_queue_connected\{.*queue="ask-hr".*\} 0', shown, re.MULTILINE)
        assert re.search(r'^ragbus_queue_connected\{.*queue="ask".*\} 1', shown, re.MULTILINE)
    assert '"queue": "ask-hr"' in log.read_text("utf-8")


async def test_a_redis_that_refuses_is_said_once_by_a_worker_that_goes_on(cloud: Stack, tmp_path: Path) -> None:
    """A cluster without its slots answers PING and INFO, and refuses every command."""
    node, health, log = Node(tmp_path / "node"), free_port(), tmp_path / "log"
    environment = {**deployed("generator", cloud, health), "RAGBUS_REDIS_URL": node.url}
    probe = f"http://127.0.0.1:{health}"
    try:
        node.start()
        async with running("generator", environment, log), httpx.AsyncClient(timeout=300) as http:

            async def up(value: float) -> bool:
                try:
                    shown = (await http.get(f"{probe}/metrics")).text
                except httpx.TransportError:
                    return False
                return bool(re.search(rf"^ragbus_redis_up\{{.*\}} {value}$", shown, re.MULTILINE))

            await until(lambda: up(0.0))
            await until(lambda: ready(http, probe))
            node.say("CLUSTER ADDSLOTSRANGE", 0, 16383)
            await until(lambda: up(1.0))
        events = [line for line in map(json.loads, log.read_text("utf-8").splitlines()) if "redis" in line["event"]]
        assert [(line["level"], line["event"]) for line in events] == [
            ("warning", "redis.unavailable"),
            ("info", "redis.available"),
        ]
        assert "Hash slot not served" in events[0]["detail"]
    finally:
        node.kill()


async def ready(http: httpx.AsyncClient, probe: str) -> bool:
    try:
        return (await http.get(f"{probe}/readyz")).status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.parametrize("secret", ["", "too short"])
async def test_the_gateway_does_not_start_without_a_cache_secret(secret: str, cloud: Stack) -> None:
    environment = {**deployed("gateway", cloud, 0), "RAGBUS_CACHE_SECRET": secret}
    if not secret:
        del environment["RAGBUS_CACHE_SECRET"]
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "services.gateway"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert line.startswith("gateway: RAGBUS_CACHE_SECRET: ")
    assert "openssl rand -hex 32" in line
