"""A response that is sent piece by piece, slowly, in part, or not at all."""

import asyncio
import gzip
import socket
import struct
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from local.llm.calls import Call
from local.llm.misbehaviours import Stop

_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: on, 0 s


class Pieces(Response):
    """Bytes in pieces, with a `pause` in seconds after each; says in `call` how many were sent, and who ended it."""

    def __init__(
        self,
        pieces: Sequence[bytes],
        call: Call,
        *,
        headers: Mapping[str, str],
        media_type: str,
        status: int = 200,
        delay: float = 0.0,
        pause: float = 0.0,
        stop: Stop | None = None,
        cut_after: int | None = None,
        encoding: str | None = None,
    ) -> None:
        """`delay`: seconds before the first byte; `cut_after`: a number of pieces."""
        headers = {**headers, "x-request-id": call.id}
        super().__init__(status_code=status, headers=headers, media_type=media_type)
        if stop is not None and len(pieces) == 1:  # a body breaks off in its middle
            middle = len(pieces[0]) // 2
            pieces = [pieces[0][:middle], pieces[0][middle:]]
        if encoding == "gzip":
            pieces = [gzip.compress(b"".join(pieces))]
            self.headers["content-encoding"] = "gzip"
        if media_type == "text/event-stream" or stop is not None:
            del self.headers["content-length"]
        else:
            self.headers["content-length"] = str(sum(map(len, pieces)))
        count = len(pieces) if stop is None else int(len(pieces) * stop.share)
        if cut_after is not None and cut_after < len(pieces):
            count, stop = cut_after, Stop("cut")
        self._pieces, self._call, self._delay, self._pause, self._stop = pieces[:count], call, delay, pause, stop

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send, until the caller hangs up."""

        async def hung_up() -> None:
            while (await receive())["type"] != "http.disconnect":
                continue

        sending = asyncio.create_task(self._send_all(scope, send))
        gone = asyncio.create_task(hung_up())
        await asyncio.wait({sending, gone}, return_when=asyncio.FIRST_COMPLETED)
        self._call.stopped = not sending.done()
        if self._call.stopped and self._call.status is None:
            self._call.status = 499
        for task in (sending, gone):
            task.cancel()
        await asyncio.gather(sending, gone, return_exceptions=True)
        if not sending.cancelled():
            sending.result()

    async def _send_all(self, scope: Scope, send: Send) -> None:
        """Returning without the last empty body makes the server drop the connection."""
        stop = self._stop
        await asyncio.sleep(self._delay)
        if stop is None or stop.headers:
            self._call.status = self.status_code
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            if not self._pieces:  # the headers go out with the first byte
                await send({"type": "http.response.body", "body": b"", "more_body": True})
        for piece in self._pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
            self._call.chunks += 1
            await asyncio.sleep(self._pause)
        if stop is None:
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        elif stop.how == "open":
            await asyncio.Event().wait()
        elif stop.how == "reset":
            _reset(scope["state"]["transport"])


def _reset(transport: Any) -> None:
    """Close the connection with RST, as a crashed server's machine or a firewall does."""
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    transport.abort()
