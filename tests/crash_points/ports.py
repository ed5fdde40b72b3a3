"""The ports of a worker with a trap around each effect: wrapped here, handed to its `main`.

A port of a kind that nothing here wraps is an error, so that no effect can be left out by forgetting it.
"""

import hashlib
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import fields, replace
from datetime import datetime, timedelta
from typing import Any, TypeVar

import httpx
import httpx2

from services.indexer.lakes.port import Blob
from shared.bus.port import Bus, Delivery, Inbox, Outgoing, Received
from shared.llm.aiohttp_transport import AiohttpTransport
from shared.redis import FailFastRedis
from shared.worker.ports import Ports
from tests.crash_points.trap import Trap

RECEIVE, RENEW, DEAD_LETTER = "bus receive", "bus renew", "bus dead-letter"
SHARED = "ragbus:breaker:"
"""Keys of what all work on a queue has in common."""
_BRIEF = 20
T = TypeVar("T")
P = TypeVar("P", bound=Ports)


def trapped(ports: P, trap: Trap) -> P:
    """`ports`, each with `trap` around its effects."""
    wrapped: dict[str, Callable[[Any], Any]] = {
        "bus": lambda bus: TrappedBus(bus, trap),
        "redis": lambda redis: TrappedRedis(redis, trap),
        "models": lambda _: ModelTransport(AiohttpTransport(), "models", trap),
        "vectors": lambda _: VectorTransport(httpx.AsyncHTTPTransport(limits=httpx.Limits()), "vectors", trap),
        "lake": lambda lake: TrappedLake(lake, trap),
        "metrics": lambda metrics: metrics,  # a crash loses what was counted, and no promise concerns it
        "clock": lambda clock: clock,
    }
    return replace(ports, **{each.name: wrapped[each.name](getattr(ports, each.name)) for each in fields(ports)})


# ---------------------------------------------------------------------- the bus


class TrappedBus:
    """A `Bus`."""

    def __init__(self, bus: Bus, trap: Trap) -> None:
        self._bus = bus
        self._trap = trap

    async def send(self, message: Outgoing) -> None:
        name = f"bus send {message.subject} to {message.queue}"
        await self._trap.around(name, lambda: self._bus.send(message), message.message_id, message.body)

    async def schedule(self, message: Outgoing) -> int:
        name = f"bus schedule {message.subject} to {message.queue}"
        return await self._trap.around(name, lambda: self._bus.schedule(message), message.message_id, message.body)

    async def cancel(self, queue: str, numbers: Sequence[int]) -> None:
        await self._trap.around(f"bus cancel in {queue}", lambda: self._bus.cancel(queue, numbers))

    async def peek(self, queue: str, *, dead: bool = False, after: int = 0, limit: int = 100) -> Sequence[Received]:
        name = f"bus peek {queue}"
        return await self._trap.around(name, lambda: self._bus.peek(queue, dead=dead, after=after, limit=limit))

    def inbox(self, queue: str) -> Inbox:
        return TrappedInbox(self._bus.inbox(queue), queue, self._trap)

    async def prewarm(self, queue: str) -> None:
        await self._bus.prewarm(queue)

    async def close(self) -> None:
        await self._bus.close()


class TrappedInbox:
    """An `Inbox`. A delivery is received when it is locked: before that there is nothing to lose."""

    def __init__(self, inbox: Inbox, queue: str, trap: Trap) -> None:
        self._inbox = inbox
        self._queue = queue
        self._trap = trap

    async def receive(self, wait: timedelta, *, prefetch: int = 0) -> Delivery | None:
        self._trap.take_up("")
        delivery = await self._inbox.receive(wait, prefetch=prefetch)
        if delivery is None:
            return None
        message = delivery.message
        # The task that works on it inherits this from the loop that is waiting here.
        self._trap.take_up(f"{message.message_id} {message.correlation_id} {message.body!r}")
        self._trap.end(self._trap.begin(f"{RECEIVE} {message.subject} from {self._queue}"))
        return TrappedDelivery(delivery, self._queue, self._trap)

    async def close(self) -> None:
        await self._inbox.close()


class TrappedDelivery:
    """A `Delivery`."""

    def __init__(self, delivery: Delivery, queue: str, trap: Trap) -> None:
        self._delivery = delivery
        self._of = f"{delivery.message.subject} of {queue}"
        self._trap = trap

    @property
    def message(self) -> Received:
        return self._delivery.message

    @property
    def locked_until(self) -> datetime:
        return self._delivery.locked_until

    async def complete(self) -> None:
        await self._trap.around(f"bus complete {self._of}", self._delivery.complete)

    async def dead_letter(self, reason: str, description: str) -> None:
        await self._trap.around(f"{DEAD_LETTER} {self._of}", lambda: self._delivery.dead_letter(reason, description))

    def forget(self) -> None:
        self._delivery.forget()

    async def renew(self) -> datetime:
        return await self._trap.around(f"{RENEW} {self._of}", self._delivery.renew)


# ---------------------------------------------------------------------- Redis


class TrappedRedis(FailFastRedis):
    """Each command and each script, one effect. What looks whether Redis is back changes nothing, and passes."""

    def __init__(self, redis: FailFastRedis, trap: Trap) -> None:
        """Has nothing of its own: what is not passed on below fails loudly."""
        self._inner = redis
        self._trap = trap

    @property
    def unavailable(self) -> bool:
        return self._inner.unavailable

    async def check(self) -> None:
        await self._inner.check()

    async def probe(self) -> int:
        return await self._inner.probe()

    async def run(self, command: Callable[[Any], Awaitable[T]]) -> T:
        return await self._inner.run(lambda nodes: command(_Commands(nodes, self._trap)))

    async def script(self, source: str, keys: list[str], args: list[Any]) -> Any:
        name = f"redis {_name_of(source)}{f' of {keys[0]}' if keys[0].startswith(SHARED) else ''}"
        return await self._trap.around(
            name,
            lambda: self._inner.script(source, keys, args),
            *keys,
            *args,
            detail=_brief(args),
            shared=keys[0].startswith(SHARED),
        )

    async def close(self) -> None:
        await self._inner.close()


class _Commands:
    """The commands of a Redis client."""

    def __init__(self, nodes: Any, trap: Trap) -> None:
        self._nodes = nodes
        self._trap = trap

    def __getattr__(self, command: str) -> Callable[..., Awaitable[Any]]:
        async def run(key: str, *args: Any, **options: Any) -> Any:
            name = f"redis {command} {key.partition('{')[0]}"
            return await self._trap.around(
                name,
                lambda: getattr(self._nodes, command)(key, *args, **options),
                key,
                shared=key.startswith(SHARED),
            )

        return run


def _brief(args: list[Any]) -> str:
    """The numbers and names among the arguments of a script, not what it stores."""
    return " ".join(" ".join(str(arg) for arg in args if len(str(arg)) < _BRIEF).split())


def _name_of(source: str) -> str:
    """What a script is called where it is written, `ledger.DECIDE`; its hash where that cannot be found.

    Of a module `scripts` the name is that of its package: `budget.SETTLE`.
    """
    found = {
        module.__name__: name.strip("_")
        for module in list(sys.modules.values())
        if getattr(module, "__name__", "").startswith(("shared.", "services."))
        for name, value in vars(module).items()
        if value is source
    }
    if not found:
        return hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()[:8]
    written = next((module for module in found if module.endswith(".scripts")), next(iter(found)))
    return f"{written.removesuffix('.scripts').rpartition('.')[2]}.{found[written]}"


# ---------------------------------------------------------------------- HTTP


class _Transport:
    """One effect per call, which ends when all of the answer has arrived: a stream is paid for to its end."""

    stream: type[Any]

    def __init__(self, transport: Any, peer: str, trap: Trap) -> None:
        self._transport = transport
        self._peer = peer
        self._trap = trap

    async def handle_async_request(self, request: Any) -> Any:
        begun = self._trap.begin(f"{self._peer} {request.method} {request.url.path}")
        response = await self._transport.handle_async_request(request)
        response.stream = self.stream(response.stream, lambda: self._trap.end(begun))
        return response

    async def aclose(self) -> None:
        await self._transport.aclose()


class _Stream:
    def __init__(self, body: Any, arrived: Callable[[], None]) -> None:
        self._body = body
        self._arrived = arrived

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for block in self._body:
            yield block
        self._arrived()

    async def aclose(self) -> None:
        await self._body.aclose()


class _VectorStream(_Stream, httpx.AsyncByteStream):
    pass


class _ModelStream(_Stream, httpx2.AsyncByteStream):
    pass


class VectorTransport(_Transport, httpx.AsyncBaseTransport):
    """Qdrant's client uses httpx."""

    stream = _VectorStream


class ModelTransport(_Transport, httpx2.AsyncBaseTransport):
    """The models' SDK uses httpx2."""

    stream = _ModelStream


# ---------------------------------------------------------------------- the lake


class TrappedLake:
    """A `Lake`. Nothing is ever written to it."""

    async def close(self) -> None:
        await self._lake.close()

    def __init__(self, lake: Any, trap: Trap) -> None:
        self._lake = lake
        self._trap = trap

    async def head(self, container: str, path: str) -> Blob | None:
        found: Blob | None = await self._trap.around("lake head", lambda: self._lake.head(container, path), path)
        return found

    async def read(self, container: str, path: str, if_match: str) -> bytes:
        data: bytes = await self._trap.around("lake read", lambda: self._lake.read(container, path, if_match), path)
        return data

    async def blobs(self, container: str, prefix: str = "") -> AsyncIterator[Blob]:
        begun = self._trap.begin("lake list", prefix)
        async for blob in self._lake.blobs(container, prefix):
            yield blob
        self._trap.end(begun)
