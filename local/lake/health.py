"""`GET /healthz` and `/health`: 200 once every file of the lake was announced, 503 before."""

from collections.abc import Callable
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

Page = Callable[[], tuple[bool, dict[str, Any]]]


def health(page: Page) -> Starlette:
    """The application; `page` returns whether the lake is ready, and the counts to show."""

    async def answer(_: Request) -> JSONResponse:
        ready, counts = page()
        return JSONResponse({"status": "ready" if ready else "starting"} | counts, 200 if ready else 503)

    return Starlette(routes=[Route("/healthz", answer), Route("/health", answer)])
