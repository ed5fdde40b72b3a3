"""One request to a model, sent by the SDK and read by us.

`client.post` is what every method of the SDK ends in: credentials, address, time-outs and errors are those of the SDK.
Its typed methods first walk through all arguments to translate them, and then make an object of every answer: more than
half of what a call costs (docs/adr/0019-model-calls-through-post.md).
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import httpx2
    from openai import AsyncOpenAI

CHAT = "/chat/completions"
EMBEDDINGS = "/embeddings"


@asynccontextmanager
async def posted(client: "AsyncOpenAI", path: str, arguments: Mapping[str, Any]) -> AsyncIterator["httpx2.Response"]:
    """The successful response to `arguments`, its body unread; leaving closes it, and an unread one's connection too.

    `arguments` are those of the SDK's own method; of its `extra_…`, `extra_body` and `extra_headers` are known. Raises
    what that method raises; reading the response raises `httpx2.HTTPError`.
    """
    from openai import AsyncStream

    body = dict(arguments)
    extra = {"extra_json": body.pop("extra_body", None), "headers": body.pop("extra_headers", None)}
    options: Any = {name: value for name, value in extra.items() if value is not None}
    stream = await client.post(
        path,
        body=body,
        options=options,
        # Never iterated, so nothing is parsed; other return types read the whole body, however long it is.
        stream=True,
        stream_cls=AsyncStream[object],
        cast_to=object,
    )
    try:
        yield stream.response
    finally:
        await stream.response.aclose()
