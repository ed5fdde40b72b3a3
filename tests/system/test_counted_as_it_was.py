"""What is kept, counted and charged beside the outcome of a request is true as well."""

from datetime import UTC, datetime, timedelta

import pytest
from azure.servicebus import ServiceBusReceivedMessage

from tests.system.conftest import App, until

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(240)]


async def sentinels(app: App, request: str) -> list[ServiceBusReceivedMessage]:
    """What is left on `outcomes` to wake the gateway for a request."""
    found = await app.peek("outcomes")
    return [message for message in found if str(message.message_id).startswith(f"{request}/deadline")]


@pytest.mark.parametrize("question", ["Where is the notice period written?", "How many stock options do I get?"])
async def test_the_sentinel_of_an_answered_request_is_cancelled(app: App, question: str) -> None:
    asked = datetime.now(UTC)
    answer = await app.ask(question, time_to_live=timedelta(seconds=300))

    async def gone() -> bool:
        return not await sentinels(app, answer["request_id"])

    await until(gone)
    assert datetime.now(UTC) < asked + timedelta(seconds=300), "it has come"


async def test_the_sentinel_of_an_http_request_is_cancelled(app: App) -> None:
    asked = datetime.now(UTC)
    body = {"question": "Where is the notice period written, please?"}
    said = await app.http.post("/v1/onboarding/ask?wait=60&deadline=300", json=body, headers=app.key())
    assert said.json()["outcome"] == "answered"

    async def gone() -> bool:
        return not await sentinels(app, said.json()["request_id"])

    await until(gone)
    assert datetime.now(UTC) < asked + timedelta(seconds=300), "it has come"
