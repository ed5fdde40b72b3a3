"""One tenant has more work than can be done: what it is told, and what another tenant notices of it."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import yaml
from azure.servicebus.aio import ServiceBusClient

from local.stack import Stack
from local.stack.stack import EXAMPLE
from shared.access.callers import hash_key
from shared.flow.rules import limit
from tests.support.waiting import PATIENCE, until
from tests.system.conftest import LOCK, SETTINGS, App

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.long]

SLOTS = 4
DOCUMENT = "probation-and-notice.md"
QUESTION = "What is the notice period during probation for staff?"
# Two tenants, two use cases with a deployment each, so that one can be made to hang.
DEPLOYMENTS = {"noisy": "onboarding-4k-north", "quiet": "onboarding-4k"}


def configuration(folder: Path) -> Path:
    """Each tenant has an app, a document and a use case."""
    config = folder / "config"
    shutil.copytree(EXAMPLE, config, ignore=shutil.ignore_patterns("handbook"))
    use_case = yaml.safe_load((config / "use_cases" / "onboarding.yaml").read_text("utf-8"))
    callers, sources = [], []
    for tenant, deployment in DEPLOYMENTS.items():
        changed = {**use_case, "name": tenant, "deployments": [deployment], "cache": {"ttl": 0}}
        (config / "use_cases" / f"{tenant}.yaml").write_text(yaml.safe_dump(changed), "utf-8")
        (folder / "documents" / tenant).mkdir(parents=True)
        shutil.copy(EXAMPLE / "handbook" / DOCUMENT, folder / "documents" / tenant)
        source = {"container": "handbook", "tenant": tenant, "collection": "handbook", "groups": ["all"]}
        sources.append({**source, "prefix": f"{tenant}/"})
        callers.append(
            {
                "name": f"{tenant}-app",
                "tenant": tenant,
                "groups": ["all"],
                "use_cases": [tenant],
                "queue": f"ask-{tenant}",
                "reply_queues": [f"answers-{tenant}"],
                "api_keys": [hash_key(f"key-{tenant}")],
            }
        )
    tenants = {tenant: {"tokens_per_minute": 10_000_000} for tenant in DEPLOYMENTS}
    (config / "callers.yaml").write_text(yaml.safe_dump({"tenants": tenants, "callers": callers}), "utf-8")
    (config / "sources.yaml").write_text(yaml.safe_dump({"sources": sources}), "utf-8")
    return config


class TwoTenants(App):
    async def ask_as(self, tenant: str, **properties: Any) -> str:
        """Post an ask; says in which session it is answered."""
        return await self.post({"question": QUESTION}, f"ask-{tenant}", **properties)

    async def outcome(self, tenant: str, session: str) -> dict[str, Any]:
        [answer] = await self.answers(session, queue=f"answers-{tenant}")
        return answer

    async def open_calls(self) -> int:
        """Calls of the noisy tenant's deployment that hang."""
        found = (await self.control.get("/control/calls")).raise_for_status().json()
        return sum(call["deployment"] == DEPLOYMENTS["noisy"] and call["status"] is None for call in found)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def app(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[TwoTenants]:
    """A system whose noisy tenant has more calls under way than there are slots, and none of them ends."""
    folder = tmp_path_factory.mktemp("overload")
    stack = Stack(
        folder / "stack",
        ports="free",
        patience=PATIENCE,
        config=configuration(folder),
        documents=folder / "documents",
        settings={**SETTINGS, "generator": {"RAGBUS_CONCURRENCY": str(SLOTS)}},
        lock=LOCK,
    )
    async with stack, ServiceBusClient.from_connection_string(stack.connection_string) as client:
        found = TwoTenants(stack, client)

        async def indexed() -> bool:
            return len(await found.documents()) == len(DEPLOYMENTS)

        await until(indexed)
        await found.fail({"deployment": DEPLOYMENTS["noisy"], "kind": "chat", "hang": True})
        for _ in range(limit(SLOTS)):
            await found.ask_as("noisy", time_to_live=timedelta(minutes=4))

        async def all_slots_hang() -> bool:
            return await found.open_calls() >= SLOTS

        await until(all_slots_hang)
        yield found
        await found.close()


async def test_a_quiet_tenant_is_answered_while_all_calls_of_a_noisy_one_are_open(app: TwoTenants) -> None:
    open_before = await app.open_calls()
    answer = await app.outcome("quiet", await app.ask_as("quiet"))
    assert answer["outcome"] == "answered"
    body = {"question": QUESTION}
    response = await app.http.post("/v1/quiet/ask?wait=60", json=body, headers={"Authorization": "Bearer key-quiet"})
    assert response.json()["outcome"] == "answered"
    assert await app.open_calls() == open_before == SLOTS


async def test_an_ask_that_cannot_end_in_time_is_refused_and_costs_nothing(app: TwoTenants) -> None:
    open_before = await app.open_calls()
    answer = await app.outcome("noisy", await app.ask_as("noisy", time_to_live=timedelta(seconds=5)))
    assert (answer["outcome"], answer["code"], answer["retryable"]) == ("refused", "Overloaded", True)
    assert answer["retry_after"] > 0
    assert await app.open_calls() == open_before


async def test_over_http_too_many_requests_come_with_a_time_to_come_back(app: TwoTenants) -> None:
    headers = {"Authorization": "Bearer key-noisy", "Idempotency-Key": "once more"}
    response = await app.http.post("/v1/noisy/ask", json={"question": QUESTION}, headers=headers)
    assert (response.status_code, response.json()["code"]) == (429, "Overloaded")
    assert int(response.headers["Retry-After"]) >= 1


async def test_what_is_held_can_be_cancelled_and_what_is_refused_at_once_does_not_wait(app: TwoTenants) -> None:
    held = [await app.ask_as("noisy", message_id=f"held{number}") for number in range(20)]
    session = await app.post({"question": "?" * 7000}, "ask-noisy")
    assert (await app.outcome("noisy", session))["code"] == "QuestionTooLong"
    await asyncio.gather(
        *(app.post({"message_id": f"held{number}"}, "ask-noisy", subject="cancel.v1") for number in range(20))
    )
    ended = await asyncio.gather(*(app.outcome("noisy", session) for session in held))
    assert {answer["code"] for answer in ended} == {"Cancelled"}
