"""A provider that misbehaves, over a real socket: it sends what a test tells it to, byte by byte.

    async with OddProvider() as provider:
        provider.answers = [status(429, headers={"retry-after": "3"}), stream(chunk("one"), chunk("", "stop"), DONE)]
        ... call provider.url ...
        assert len(provider.asked) == 2

Each call takes the next of `answers`; the last one is for all calls that follow. `provider.asked` has their bodies.
"""

import asyncio
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Self

DONE = "[DONE]"
USAGE: dict[str, Any] = {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}
JSON, EVENTS, HTML = "application/json", "text/event-stream", "text/html; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Answer:
    """What goes over the wire, in blocks, and what then becomes of the connection."""

    blocks: Sequence[bytes] = ()
    status: int = 200
    kind: str = JSON
    headers: dict[str, str] = field(default_factory=dict)
    before: float = 0
    """Seconds before the headers."""
    pause: float = 0
    """Seconds before each block but the first."""
    end: str = "close"
    """`close`: the body ends; `reset`: the connection is reset; `open`: nothing more is sent, and nothing closed;
    `half`: the connection closes without the last chunk of the chunked coding."""


Script = Answer | Callable[[dict[str, Any]], Answer]


class OddProvider:
    """An HTTP/1.1 server on a free port of this machine."""

    def __init__(self, *answers: Script) -> None:
        self.answers: list[Script] = list(answers)
        self.asked: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.left = 0
        """Connections that the client closed before the answer had ended."""
        self._served = 0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """The address, with `/v1`."""
        return f"{self.origin}/v1"

    @property
    def origin(self) -> str:
        """The address without a path."""
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def play(self, *answers: Script) -> None:
        """Begin again, with these answers."""
        self.answers, self._served = list(answers), 0
        self.asked.clear()
        self.paths.clear()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accepted, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            # A cancelled task would be reported as an error of the server.
            with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                while await self._serve(reader, writer):
                    pass
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request; returns whether the connection can take another."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
        body = await reader.readexactly(int(fields.get("content-length", 0)))
        self.paths.append(head[0].split(" ")[1])
        self.headers.append(fields)
        self.asked.append(json.loads(body or b"{}"))
        script = self.answers[min(self._served, len(self.answers) - 1)]
        self._served += 1
        answer = script(self.asked[-1]) if callable(script) else script
        await asyncio.sleep(answer.before)
        headers = {"content-type": answer.kind, "transfer-encoding": "chunked", **answer.headers}
        lines = [f"HTTP/1.1 {answer.status} Odd", *(f"{name}: {value}" for name, value in headers.items())]
        writer.write("\r\n".join([*lines, "", ""]).encode())
        await writer.drain()
        try:
            for number, block in enumerate(answer.blocks):
                if number:
                    await asyncio.sleep(answer.pause)
                if block:
                    writer.write(b"%x\r\n%s\r\n" % (len(block), block))
                    await writer.drain()
            if answer.end == "open":
                await reader.read()  # ends when the client closes the connection
                self.left += 1
                return False
        except ConnectionError:
            self.left += 1
            raise
        if answer.end == "close":
            writer.write(b"0\r\n\r\n")
            await writer.drain()
            return True
        if answer.end == "reset":
            writer.transport.abort()
        return False


def chunk(content: Any = None, finish: str | None = None, *, index: int = 0, **more: Any) -> dict[str, Any]:
    """A chunk of a stream; `more` goes into its delta."""
    delta = more if content is None else {"content": content, **more}
    return {"object": "chat.completion.chunk", "choices": [{"index": index, "delta": delta, "finish_reason": finish}]}


def usage(counted: Any = None) -> dict[str, Any]:
    """The last chunk of a stream with `include_usage`."""
    return {"object": "chat.completion.chunk", "choices": [], "usage": USAGE if counted is None else counted}


def stream(*events: dict[str, Any] | str | bytes, end: str = "\n\n", **more: Any) -> Answer:
    """Server-sent events: a dict or a text is the data of one, bytes are sent as they are."""
    return Answer(tuple(_event(each, end) for each in events), kind=more.pop("kind", EVENTS), **more)


def _event(data: dict[str, Any] | str | bytes, end: str) -> bytes:
    if isinstance(data, bytes):
        return data
    return f"data: {data if isinstance(data, str) else json.dumps(data)}{end}".encode()


def whole(content: Any = None, finish: str | None = "stop", counted: Any = None, **more: Any) -> Answer:
    """A completion that is not streamed; `more` goes into its message."""
    message = {"role": "assistant", "content": content, **more}
    choices = [{"index": 0, "message": message, "finish_reason": finish}]
    return body({"object": "chat.completion", "choices": choices, "usage": USAGE if counted is None else counted})


def body(value: Any, **more: Any) -> Answer:
    """JSON of any shape, text, or bytes, with status 200."""
    encoded = value if isinstance(value, bytes) else value.encode() if isinstance(value, str) else _json(value)
    return Answer((encoded,), **more)


def status(code: int, value: Any = "", headers: dict[str, str] | None = None, **more: Any) -> Answer:
    """An HTTP error."""
    return body(value, status=code, headers=headers or {}, **more)


def split(answer: Answer, size: int) -> Answer:
    """The same bytes in blocks of `size`."""
    sent = b"".join(answer.blocks)
    blocks = tuple(sent[start : start + size] for start in range(0, len(sent), size))
    return Answer(blocks, answer.status, answer.kind, answer.headers, answer.before, answer.pause, answer.end)


def html(title: str, code: int = 200) -> Answer:
    """A proxy's page."""
    page = f"<!doctype html><html><head><title>{title}</title></head><body><p>words</p></body></html>"
    return body(page, status=code, kind=HTML)


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()
