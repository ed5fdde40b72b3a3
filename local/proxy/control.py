"""The proxy's HTTP interface, with which another process sets its faults.

GET, POST, DELETE /control/faults       show, replace or remove the faults
GET               /control/connections  open, most open at one time (peak), accepted; bytes swallowed
GET               /health               200
"""

from contextlib import AsyncExitStack

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from local.proxy.faults import FaultError, read_faults, written
from local.proxy.proxy import Proxy
from local.serving import listen, serving


class Control:
    """The HTTP server of one proxy."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self._running = AsyncExitStack()

    async def start(self, host: str, port: int) -> int:
        """Listen; returns the port. Raises `OSError`."""
        app = Starlette(
            routes=[
                Route("/health", self._health),
                Route("/control/connections", self._connections),
                Route("/control/faults", self._faults, methods=["GET", "POST", "DELETE"]),
            ]
        )
        listener = listen(host, port)
        await self._running.enter_async_context(serving(app, listener))
        return int(listener.getsockname()[1])

    async def stop(self) -> None:
        """Stop listening."""
        await self._running.aclose()

    async def _health(self, _: Request) -> JSONResponse:
        return JSONResponse({"status": "ready"})

    async def _connections(self, _: Request) -> JSONResponse:
        proxy = self._proxy
        return JSONResponse(
            {
                "open": proxy.connected,
                "peak": proxy.peak,
                "accepted": proxy.accepted,
                "swallowed": {direction.value: count for direction, count in proxy.swallowed.items()},
            }
        )

    async def _faults(self, request: Request) -> JSONResponse:
        try:
            if request.method == "POST":
                self._proxy.set(*read_faults(await request.json()))
            elif request.method == "DELETE":
                self._proxy.set()
        except (FaultError, ValueError, RecursionError) as wrong:
            return JSONResponse({"error": str(wrong)}, 400)
        return JSONResponse([written(fault) for fault in self._proxy.faults])
