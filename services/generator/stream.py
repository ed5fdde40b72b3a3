"""A streamed chat completion: bytes in, what was said out.

Our own reading, because the SDK makes an object of every chunk, which costs ten times as much. Format: server-sent
events (WHATWG HTML, 9.2) with one `data:` line each, as OpenAI's "Chat completion chunk object" is sent.
"""

import json
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from shared.errors import DependencyDown

DONE = b"[DONE]"


async def events(received: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    """The data of each event."""
    rest = b""
    async for block in received:
        *lines, rest = (rest + block).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                yield line[5:].strip()


@dataclass(slots=True)
class Heard:
    """What has come of an answer so far."""

    pieces: list[str] = field(default_factory=list)
    finish: str | None = None
    """Why it ended; none: it has not."""
    usage: tuple[int, int] | None = None
    """Tokens of prompt and completion as the provider counted them."""

    @property
    def text(self) -> str:
        """All that was said."""
        return "".join(self.pieces)

    def take(self, data: bytes) -> None:
        """Add a chunk. Raises `DependencyDown` for an error of the provider's and for what is no chunk."""
        try:
            chunk: dict[str, Any] = json.loads(data)
            if error := chunk.get("error"):
                raise DependencyDown(f"the model broke off: {error}")
            for choice in chunk.get("choices") or ():
                said = (choice.get("delta") or {}).get("content") or ""
                if not isinstance(said, str):
                    raise TypeError(f"content is {type(said).__name__}")
                self.pieces.append(said)
                self.finish = choice.get("finish_reason") or self.finish
            if usage := chunk.get("usage"):
                self.usage = (int(usage["prompt_tokens"]), int(usage["completion_tokens"]))
        except (ValueError, TypeError, AttributeError, KeyError) as strange:
            raise DependencyDown(f"the model sent what is no chat completion: {strange!r}") from strange
