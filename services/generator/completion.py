"""Reads a chat completion, streamed or whole: bytes in, text out, and of both no more than a limit.

It is our own reader, because the SDK creates an object for every chunk and reads a body of any length to its end.
Format: server-sent events (WHATWG HTML, 9.2) with one `data:` line each, as OpenAI's "Chat completion chunk object" is
sent.
"""

import json
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from pydantic_core import from_json

from shared.errors import DependencyDown
from shared.text import brief

DONE = b"[DONE]"
# OpenAI's finish reason of an answer that was cut at its limit.
LENGTH = "length"
# What reading a body that is not a completion can raise; 1e999 overflows, and nested brackets exhaust the stack.
STRANGE = (ValueError, TypeError, AttributeError, KeyError, OverflowError, RecursionError)


class Overlong(Exception):
    """The model sends more than the answer may have."""


async def bounded(received: AsyncIterator[bytes], most: int) -> AsyncGenerator[bytes, None]:
    """The first `most` bytes; raises `Overlong` when there are more."""
    left = most
    async for block in received:
        yield block[:left]
        left -= len(block)
        if left < 0:
            raise Overlong(f"more than {most} bytes")


async def events(received: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    """The data of each server-sent event in the bytes `received`, which may be cut anywhere."""
    rest = bytearray()
    async for block in received:
        rest += block
        if b"\n" not in block:
            continue
        *lines, rest = rest.split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                yield bytes(line[5:].strip())


@dataclass(slots=True)
class CompletionBuffer:
    """The answer so far, up to `most` bytes of text."""

    most: int
    left: int = field(init=False)
    pieces: list[str] = field(default_factory=list)
    finish: str | None = None
    """Why the answer ended; None: it has not."""
    usage: tuple[int, int] | None = None
    """Tokens of prompt and completion as the provider counted them."""

    def __post_init__(self) -> None:
        self.left = self.most

    @property
    def text(self) -> str:
        """The text so far."""
        said = "".join(self.pieces)
        # Some servers split a character into halves of a surrogate pair, each in a chunk of its own.
        return said.encode("utf-16", "surrogatepass").decode("utf-16", "ignore")

    def take(self, data: bytes) -> None:
        """Add a chunk of a stream.

        Raises `DependencyDown` for an error of the provider or an invalid chunk, `Overlong` when the answer is too
        long.
        """
        try:
            self._add(json.loads(data), "delta")
        except STRANGE as strange:
            raise DependencyDown(f"the model's reply is not a chat completion: {brief(repr(strange))}") from strange

    def take_whole(self, body: bytes) -> None:
        """Add an answer that is not streamed; raises like `take`."""
        try:
            completion = json.loads(body)
            if not completion["choices"]:
                raise ValueError("no choices")
            self._add(completion, "message")
        except STRANGE as strange:
            raise DependencyDown(f"the model's reply is not a chat completion: {brief(repr(strange))}") from strange

    def take_beginning(self, body: bytes) -> None:
        """Add the readable beginning of an answer that is not streamed."""
        try:
            self._add(from_json(body.decode("utf-8", "ignore"), allow_partial="trailing-strings"), "message")
        except STRANGE:
            return

    def _add(self, completion: dict[str, Any], where: str) -> None:
        """Add the text and usage of a chunk or a completion, whose text is in `where`: `delta` or `message`.

        Raises `DependencyDown` for an error of the provider, `Overlong`, and `STRANGE` for another shape.
        """
        if error := completion.get("error"):
            raise DependencyDown(f"the model sent an error instead of the rest of its answer: {brief(str(error))}")
        # First, because it has the paid tokens, also of an answer that is too long.
        usage = completion.get("usage") or {}
        if usage.get("prompt_tokens") is not None and usage.get("completion_tokens") is not None:
            self.usage = (int(usage["prompt_tokens"]), int(usage["completion_tokens"]))
        for choice in completion.get("choices") or ():
            said = (choice.get(where) or {}).get("content") or ""
            if isinstance(said, list):
                said = "".join(part["text"] for part in said if part["type"] == "text")
            if not isinstance(said, str):
                raise TypeError(f"content is {type(said).__name__}")
            self.finish = choice.get("finish_reason") or self.finish
            encoded = said.encode("utf-8", "surrogatepass")
            if len(encoded) > self.left:
                said = encoded[: self.left].decode("utf-8", "ignore")
            self.pieces.append(said)
            self.left -= len(encoded)
            if self.left < 0:
                self.finish = LENGTH
                raise Overlong(f"more than {self.most} bytes of text")
