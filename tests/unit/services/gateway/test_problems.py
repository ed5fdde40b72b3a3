"""Errors over HTTP: what a caller reads, and what an operator finds in the log."""

import httpx
from fastapi import FastAPI
from structlog.testing import capture_logs

from services.gateway.problems import answer_with_problems


async def test_the_operator_gets_the_traceback_of_a_bug_and_the_caller_does_not() -> None:
    app = FastAPI()
    answer_with_problems(app)

    @app.get("/")
    async def broken() -> None:
        raise ZeroDivisionError("the secret detail")

    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        with capture_logs() as logged:
            reply = await client.get("/")
    assert (reply.status_code, reply.json()["code"], reply.json()["retryable"]) == (500, "Crashed", True)
    assert "secret" not in reply.text
    [event] = logged
    assert (event["event"], event["exc_info"].__traceback__ is not None) == ("http.bug", True)
