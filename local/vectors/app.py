"""The HTTP side: Qdrant's addresses, each a function of a call that returns a result.

Reads run on the event loop, in well under a millisecond; writes queue for one writer thread. So a
write sees nothing change under it, which is what makes a conditional upsert a compare-and-set, and
nothing else needs a lock. (qdrant-edge-py 0.9.0 holds the interpreter during every call: more
threads would not make it faster.)
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from local.vectors.bodies import Json, decode, encode
from local.vectors.collections import Collection, Collections
from local.vectors.definitions import read_definition, read_index
from local.vectors.errors import Refusal, missing, unsupported
from local.vectors.points import (
    Operation,
    read_delete,
    read_delete_payload,
    read_path_id,
    read_set_payload,
    read_upsert,
    write_id,
    write_point,
)
from local.vectors.queries import read_count, read_queries, read_query, read_retrieve, read_scroll

# The client compares versions and warns when they are more than one minor version apart.
QDRANT_VERSION = "1.20.0"
_LARGEST_BODY = 32 * 1024 * 1024  # Qdrant's default
_FLUSH_EVERY = 5.0  # seconds; Qdrant's default

log = logging.getLogger("local.vectors")


class Call:
    """One request: its collection, its path parameters, its body."""

    def __init__(self, collections: Collections, request: Request, raw: bytes) -> None:
        self.collections = collections
        self.path = request.path_params
        self.waits = request.query_params.get("wait") == "true"
        self._raw = raw

    @property
    def name(self) -> str:
        """The collection's name in the path."""
        return str(self.path["collection"])

    @property
    def collection(self) -> Collection:
        """The collection; raises `Refusal` when it does not exist."""
        return self.collections[self.name]

    def body(self) -> Json:
        """The body as JSON; raises `Refusal` when it is not."""
        return decode(self._raw)

    def write(self, *operations: Operation) -> Json:
        """Apply `operations`; returns the result, whose status depends on the `wait` of the request."""
        self.collection.write(*operations)
        status = "completed" if self.waits else "acknowledged"
        return {"operation_id": self.collection.operations, "status": status}


Handler = Callable[[Call], Json]
Endpoint = Callable[[Request], Awaitable[Response]]


def list_collections(call: Call) -> Json:
    return {"collections": [{"name": name} for name in call.collections.names()]}


def show_collection(call: Call) -> Json:
    return call.collection.describe()


def collection_exists(call: Call) -> Json:
    return {"exists": call.name in call.collections}


def create_collection(call: Call) -> Json:
    call.collections.create(call.name, read_definition(call.body()))
    return True


def delete_collection(call: Call) -> Json:
    return call.collections.delete(call.name)


def create_index(call: Call) -> Json:
    return call.write(read_index(call.body()))


def delete_index(call: Call) -> Json:
    return call.write(Operation.delete_field_index(call.path["field"]))


def upsert(call: Call) -> Json:
    return call.write(*read_upsert(call.body(), call.collection.definition))


def delete_points(call: Call) -> Json:
    return call.write(read_delete(call.body()))


def set_payload(call: Call) -> Json:
    return call.write(read_set_payload(call.body(), overwrite=False))


def overwrite_payload(call: Call) -> Json:
    return call.write(read_set_payload(call.body(), overwrite=True))


def delete_payload(call: Call) -> Json:
    return call.write(read_delete_payload(call.body()))


def retrieve(call: Call) -> Json:
    wanted = read_retrieve(call.body())
    return [write_point(point) for point in call.collection.ask(lambda shard: shard.retrieve(**wanted))]


def show_point(call: Call) -> Json:
    point_id = read_path_id(call.path["id"])
    found = call.collection.ask(lambda shard: shard.retrieve([point_id], True, True))
    if not found:
        raise missing(f"Point with id {point_id} does not exists!")
    return write_point(found[0])


def scroll(call: Call) -> Json:
    request = read_scroll(call.body())
    page, following = call.collection.ask(lambda shard: shard.scroll(request))
    offset = None if following is None else write_id(following)
    return {"points": [write_point(point) for point in page], "next_page_offset": offset}


def count(call: Call) -> Json:
    request = read_count(call.body())
    return {"count": call.collection.ask(lambda shard: shard.count(request))}


def query(call: Call) -> Json:
    request = read_query(call.body())
    found = call.collection.ask(lambda shard: shard.query(request))
    return {"points": [write_point(point) for point in found]}


def query_batch(call: Call) -> Json:
    requests = read_queries(call.body())
    found = call.collection.ask(lambda shard: [shard.query(request) for request in requests])
    return [{"points": [write_point(point) for point in points]} for points in found]


READS: tuple[tuple[str, str, Handler], ...] = (
    ("GET", "/collections", list_collections),
    ("GET", "/collections/{collection}", show_collection),
    ("GET", "/collections/{collection}/exists", collection_exists),
    ("POST", "/collections/{collection}/points", retrieve),
    ("POST", "/collections/{collection}/points/scroll", scroll),
    ("POST", "/collections/{collection}/points/count", count),
    ("POST", "/collections/{collection}/points/query", query),
    ("POST", "/collections/{collection}/points/query/batch", query_batch),
    ("GET", "/collections/{collection}/points/{id}", show_point),
)
WRITES: tuple[tuple[str, str, Handler], ...] = (
    ("PUT", "/collections/{collection}", create_collection),
    ("DELETE", "/collections/{collection}", delete_collection),
    ("PUT", "/collections/{collection}/index", create_index),
    ("DELETE", "/collections/{collection}/index/{field}", delete_index),
    ("PUT", "/collections/{collection}/points", upsert),
    ("POST", "/collections/{collection}/points/delete", delete_points),
    ("POST", "/collections/{collection}/points/payload", set_payload),
    ("PUT", "/collections/{collection}/points/payload", overwrite_payload),
    ("POST", "/collections/{collection}/points/payload/delete", delete_payload),
)


def create_app(collections: Collections) -> Starlette:
    """The application over `collections`; the caller opens and closes these."""
    writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="writer")

    async def flush_regularly() -> None:
        """Keep the write-ahead logs short; acknowledged writes are safe without this."""
        while True:
            await asyncio.sleep(_FLUSH_EVERY)
            try:
                await asyncio.get_running_loop().run_in_executor(writer, collections.flush)
            except Refusal as refusal:
                log.error("flush failed: %s", refusal)

    @asynccontextmanager
    async def flushing(_: Starlette) -> AsyncIterator[None]:
        flusher = asyncio.create_task(flush_regularly())
        yield
        flusher.cancel()
        with suppress(asyncio.CancelledError):
            await flusher
        await asyncio.to_thread(writer.shutdown)

    def endpoint(handler: Handler, executor: Executor | None) -> Endpoint:
        async def serve(request: Request) -> Response:
            began = time.perf_counter()
            call = Call(collections, request, await _body(request))
            if executor is None:
                result = handler(call)
            else:
                result = await asyncio.get_running_loop().run_in_executor(executor, handler, call)
            return _answer({"result": result, "status": "ok"}, began)

        return serve

    async def version(_: Request) -> Response:
        about = {"title": "ragbus local vectors", "version": QDRANT_VERSION}
        return Response(encode(about), media_type="application/json")

    async def probe(request: Request) -> Response:
        return PlainTextResponse(f"{request.url.path[1:]} check passed")

    return Starlette(
        routes=[
            Route("/", version),
            *(Route(path, probe) for path in ("/healthz", "/livez", "/readyz")),
            *(Route(path, endpoint(handler, None), methods=[verb]) for verb, path, handler in READS),
            *(Route(path, endpoint(handler, writer), methods=[verb]) for verb, path, handler in WRITES),
        ],
        lifespan=flushing,
        exception_handlers={Refusal: _refused, 404: _unknown, 405: _unknown, Exception: _crashed},
    )


async def _body(request: Request) -> bytes:
    """The request's body; raises `Refusal` over 32 MiB, after reading it all, so that the caller gets the response."""
    size, chunks = 0, []
    async for chunk in request.stream():
        size += len(chunk)
        if size <= _LARGEST_BODY:
            chunks.append(chunk)
    if size > _LARGEST_BODY:
        raise Refusal(413, f"Payload error: {size} bytes are more than {_LARGEST_BODY}; send fewer points")
    return b"".join(chunks)


def _answer(content: dict[str, Json], began: float, status: int = 200) -> Response:
    timed = {**content, "time": time.perf_counter() - began}
    return Response(encode(timed), status_code=status, media_type="application/json")


async def _refused(request: Request, refusal: Exception) -> Response:
    assert isinstance(refusal, Refusal)
    return _answer({"status": {"error": refusal.sentence}}, time.perf_counter(), refusal.status)


async def _unknown(request: Request, _: Exception) -> Response:
    return await _refused(request, unsupported(f"{request.method} {request.url.path}"))


async def _crashed(request: Request, error: Exception) -> Response:
    return await _refused(request, Refusal(500, f"Service internal error: {error!r}"))
