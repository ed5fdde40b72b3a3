"""`GET /healthz` and `/health`: 200 when everything on the lake has been announced once, 503 before."""

from collections.abc import Callable
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

Page = Callable[[], tuple[bool, dict[str, Any]]]


def health(page: Page) -> Starlette:
    """The app; `page` returns whether the lake is ready, and counts to show."""

    async def answer(_: Request) -> JSONResponse:
        ready, counts = page()
        return JSONResponse({"status": "ready" if ready else "starting"} | counts, 200 if ready else 503)

    return Starlette(routes=[Route("/healthz", answer), Route("/health", answer)])
