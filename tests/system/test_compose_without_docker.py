"""`docker compose up` without Docker: every service runs, becomes healthy, and together they answer a question."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from azure.servicebus.aio import ServiceBusClient

from ops.upstream import Answer, Upstream
from tests.conftest import free_port
from tests.support.containers import Container, make_venv
from tests.support.manifests import WORKERS, compose
from tests.support.waiting import until

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.long]

SERVICES: dict[str, Any] = compose()["services"]
SHELL = {"RAGBUS_CACHE_SECRET": "0123456789abcdef0123456789abcdef"}
# The defaults of these two: their commands name no port.
DEFAULT_PORTS = {"servicebus": {"--port": 5672, "--admin-port": 5300}, "redis": {"--port": 6379}}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def containers(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[dict[str, Container]]:
    """Every service, once all are as ready as `depends_on` and the health checks want them."""
    folder = tmp_path_factory.mktemp("compose")
    venv = make_venv(folder / "venv")
    ports = {inside: str(free_port()) for inside in (5672, 5300, 6379, 6333, 8090, 8070)}
    found = {name: container(name, folder, venv, ports) for name in SERVICES}
    started = {name: asyncio.Event() for name in found}

    async def start(name: str) -> None:
        for other, how in SERVICES[name].get("depends_on", {}).items():
            await started[other].wait()
            match how["condition"]:
                case "service_healthy":
                    await healthy(found[other])
                case "service_completed_successfully":
                    assert await found[other].wait() == 0, found[other].log
        await found[name].start()
        started[name].set()

    try:
        async with asyncio.TaskGroup() as starting:
            for name in found:
                starting.create_task(start(name))
        async with asyncio.TaskGroup() as checking:
            # The others have no health check, or have ended.
            for name in (*WORKERS, "lake"):
                checking.create_task(healthy(found[name]))
        yield found
    finally:
        for each in found.values():
            await each.kill()


def container(name: str, folder: Path, venv: Path, ports: dict[int, str]) -> Container:
    """The service `name`, on ports of this machine."""
    spec = dict(SERVICES[name])
    if name in DEFAULT_PORTS:
        options = [word for option, inside in DEFAULT_PORTS[name].items() for word in (option, ports[inside])]
        spec["command"] = [*spec.get("command", []), *options]
    if name in WORKERS:
        # Each container has a port 8081 of its own, but one machine has one.
        own = {"RAGBUS_HEALTH_PORT": str(free_port()), "RAGBUS_HTTP_PORT": "0"}
        spec["environment"] = {**spec["environment"], **own}
    addresses = {
        "//servicebus;": f"//127.0.0.1:{ports[5672]};",
        "//servicebus:5300": f"//127.0.0.1:{ports[5300]}",
        "//redis:6379": f"//127.0.0.1:{ports[6379]}",
        "//vectors:6333": f"//127.0.0.1:{ports[6333]}",
        "//llm:8090": f"//127.0.0.1:{ports[8090]}",
        "redis.Redis(": f"redis.Redis(port={ports[6379]}, ",
        "0.0.0.0": "127.0.0.1",
        **{str(inside): ports[inside] for inside in (6333, 8090, 8070)},
    }
    return Container(name, spec, folder, venv=venv, shell=SHELL, addresses=addresses)


async def healthy(one: Container) -> None:
    async def passes() -> bool:
        assert one.alive, f"{one.name} ended:\n{one.log}"
        return await one.is_healthy()

    await until(passes)


async def test_a_question_is_answered_from_the_lake(containers: dict[str, Container]) -> None:
    address = containers["lake"].placed(SERVICES["gateway"]["environment"]["RAGBUS_SERVICEBUS_CONNECTION_STRING"])

    async with ServiceBusClient.from_connection_string(address) as bus, Upstream(bus) as app:

        async def answered() -> Answer | None:
            answer = await app.ask("What are the core hours for remote workers?", within=120, cache="refresh")
            # Until the document is indexed there is no answer.
            return answer if answer["outcome"] != "no_answer" else None

        answer = await until(answered)
    assert answer["outcome"] == "answered", answer
    assert answer["citations"][0]["path"] == "remote-work.md"


async def test_every_service_ends_with_status_0_when_it_is_stopped(containers: dict[str, Container]) -> None:
    """The last test: nothing runs after it."""
    order = ("lake", *WORKERS, "llm", "vectors", "servicebus", "redis")
    assert {name: await containers[name].stop() for name in order} == dict.fromkeys(order, 0)
