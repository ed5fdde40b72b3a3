"""Reads a chat completion, streamed or whole: bytes in, text out, and of both no more than a limit.

Both are read into one `Completion` and checked alike. Which of the two a server sends is seen from its first byte,
because some send a stream where none was asked for, or the other way round.

Why it is our own reader. `openai.AsyncStream` (3.54) is right about line ends, comments and events of several lines;
the same rules are here. What it gets wrong, each seen in the wild: `data:` without text, which proxies send to keep a
connection alive, raises (netease-lcap/wave-agent#1326, theopenco/llmgateway#2334), and so does any blank line after an
`id:`; a byte order mark hides the first event; a last event without a blank line is dropped; of an HTML page, or of a
completion that is not a stream, nothing is left, not even an error; a line may be endless. The cost is no reason: a
chunk takes it 17 µs with `cast_to=object`, ours 8, and its typed form 145 (2 cores of an EPYC, 2026-11-28).
"""

import json
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from typing import Any

from pydantic_core import from_json

from services.generator.reasoning import calls_tools, without_reasoning, without_special_tokens
from services.generator.reply import NoAnswer, Reply
from shared.contracts.outcome import Code
from shared.llm.errors import InvalidReply, ModelError, ModelRefused, Used
from shared.llm.faults import error_in, error_of, redacted, text_of
from shared.llm.tokens import count_tokens
from shared.text import brief

DONE = b"[DONE]"
# Data that keeps a connection alive.
KEEP_ALIVE = (b"null", b'""')
BOM = b"\xef\xbb\xbf"
# Finish reasons, in lower case. OpenAI has stop, length, content_filter, tool_calls and function_call; the others are
# Anthropic's, Gemini's, Mistral's and Zhipu's, which proxies pass on.
LENGTH = frozenset({"length", "max_tokens", "max_output_tokens", "model_length", "model_context_window_exceeded"})
FILTERED = frozenset({"content_filter", "safety", "prohibited_content", "recitation", "refusal", "sensitive"})
TOOLS = frozenset({"tool_calls", "function_call", "tool_use"})
# The server gave up: OpenRouter, SGLang and vLLM, Zhipu, DeepSeek.
BROKEN = frozenset({"error", "abort", "network_error", "insufficient_system_resource"})
# What reading a body that is not a completion can raise; 1e999 overflows, and nested brackets exhaust the stack.
STRANGE = (ValueError, TypeError, AttributeError, KeyError, OverflowError, RecursionError, IndexError)
# Characters of an HTML page that are read.
PAGE = 16 * 1024
# How often a body is parsed before its end.
MOST_TRIES = 50


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
    """The data of each server-sent event in the bytes `received`, which may be cut anywhere (WHATWG HTML, 9.2).

    Empty data is left out. Unlike the standard, an event that ends with the body counts without a blank line, too.
    """
    rest, data, after_cr = bytearray(), list[bytes](), False
    async for block in received:
        if after_cr and block.startswith(b"\n"):
            block = block[1:]
        if not block:
            continue
        after_cr = block.endswith(b"\r")
        rest += block
        if b"\n" not in block and b"\r" not in block:
            continue
        lines = bytes(rest).splitlines(keepends=True)
        rest = bytearray() if lines[-1].endswith((b"\n", b"\r")) else bytearray(lines.pop())
        for line in lines:
            field_of = line.rstrip(b"\r\n")
            if field_of.startswith(b"data:") and (value := field_of[5:].strip()):
                data.append(value)
            elif not field_of and data:
                yield b"\n".join(data)
                data.clear()
    if rest.startswith(b"data:") and (value := bytes(rest[5:]).strip()):
        data.append(value)
    if data:
        yield b"\n".join(data)


@dataclass(slots=True)
class Completion:
    """The answer so far, up to `most` bytes of text; `name`: the deployment, for errors."""

    most: int
    name: str = "the deployment"
    left: int = field(init=False)
    pieces: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    finish: str | None = None
    """Why the answer ended; None: it has not, or the server does not say."""
    done: bool = False
    """The server said that nothing follows: `[DONE]`, or the end of a body that is not a stream."""
    started: bool = False
    """A choice has arrived."""
    reached: bool = False
    """The beginning of an answer that is not streamed has arrived."""
    calls_tools: bool = False
    usage: tuple[object, object] | None = None
    """Tokens of prompt and completion as the provider counted them, whatever they are."""
    _index: int = 0

    def __post_init__(self) -> None:
        self.left = self.most

    @property
    def is_complete(self) -> bool:
        """Whether nothing of the answer is missing: a finish reason, or `[DONE]` after the text.

        A stream that ends with neither may have lost its end. `[DONE]` is taken for the end of an answer, because some
        servers send no finish reason (anomalyco/opencode#43882), and asking again brings none either.
        """
        return self.finish is not None or (self.done and self.started)

    @property
    def received(self) -> int:
        """Bytes of text and reasoning that were received, kept or not."""
        return self.most - self.left + sum(len(each) for each in self.reasoning)

    @property
    def written(self) -> str:
        """All text so far, with the reasoning in it."""
        said = "".join(self.pieces)
        # Some servers split a character into halves of a surrogate pair, each in a chunk of its own.
        return said.encode("utf-16", "surrogatepass").decode("utf-16", "ignore")

    @property
    def text(self) -> str:
        """The answer so far, without reasoning."""
        return without_reasoning(self.written)

    @property
    def refusal(self) -> str:
        """Why the model declines to answer; empty: it does not."""
        return "".join(self.refused)

    def estimated(self, prompt_tokens: int) -> Used:
        """The tokens so far, for a provider that has not counted them."""
        output = count_tokens(self.written) + count_tokens("".join(self.reasoning))
        return Used(prompt_tokens, output, estimated=True)

    async def read(self, received: AsyncIterator[bytes]) -> AsyncGenerator[None, None]:
        """Read a response body; yields whenever something was added.

        Raises a `ModelError` for an error of the provider and for a body that is not a completion, `Overlong` when the
        answer is too long.
        """
        first = b""
        async for block in received:
            first = (first + block).lstrip().removeprefix(BOM).lstrip()
            if first:
                break
        rest = _again(first, received)
        if first[:1] in (b"{", b"[", b"<"):
            async with aclosing(self._read_whole(rest)) as steps:
                async for _ in steps:
                    yield
            return
        async with aclosing(events(rest)) as found:
            async for event in found:
                for data in _documents(event):
                    if data.startswith(DONE):
                        self.done = True
                    elif not self.done and data not in KEEP_ALIVE:
                        self.take(data)
                yield
        if not self.done and not self.started and self.usage is None:
            said = brief(first.decode("utf-8", "replace"), 100)
            raise InvalidReply(
                f"{self.name}: the reply has no completion in it: {said or 'it is empty'}", sentence=said
            )

    def take(self, data: bytes, parsed: Any = None) -> None:
        """Add a chunk of a stream, or all of an answer that is not streamed; `parsed`: the same, if it is known."""
        try:
            # A byte that is not UTF-8 costs one character, not the answer.
            self._add(json.loads(data.decode("utf-8", "replace")) if parsed is None else parsed)
        except STRANGE as strange:
            raise InvalidReply(
                f"{self.name}: the reply is not a chat completion: {brief(repr(strange), 200)}",
                sentence=brief(data[:200].decode("utf-8", "replace"), 100),
            ) from strange

    async def _read_whole(self, received: AsyncIterator[bytes]) -> AsyncGenerator[None, None]:
        body, tries = bytearray(), MOST_TRIES
        try:
            async for block in received:
                body += block
                if body.startswith(b"<") and len(body) > PAGE:
                    break
                # It may be whole although the connection stays open.
                if not self.done and tries and body.rstrip().endswith(b"}") and body.count(b"{") == body.count(b"}"):
                    tries, parsed = tries - 1, None
                    with suppress(*STRANGE):
                        parsed = json.loads(body.decode("utf-8", "replace"))
                    if parsed is not None:
                        self.take(bytes(body), parsed)
                        self.done = True
                yield
        except ModelError:
            raise
        except BaseException:
            if not self.done:
                self._take_beginning(bytes(body))
            raise
        if body.startswith(b"<"):
            page = text_of(body.decode("utf-8", "replace"))
            raise InvalidReply(f"{self.name}: the reply is {page}, not a completion", sentence=page)
        if not self.done:
            self.take(bytes(body))
            self.done = True
        if not self.started:
            raise InvalidReply(f"{self.name}: the reply has no choices")

    def _take_beginning(self, body: bytes) -> None:
        """Add the readable beginning of an answer that is not streamed; it counts as paid for."""
        self.reached = body.startswith(b"{")
        with suppress(ModelError, Overlong, *STRANGE):
            self._add(from_json(body.decode("utf-8", "ignore"), allow_partial="trailing-strings"))
        # It may stand before the text, which is not complete.
        self.finish = None

    def _add(self, completion: dict[str, Any]) -> None:
        """Add the text and usage of a chunk or a completion, whose text is in `delta` or `message`.

        Raises a `ModelError` for an error of the provider, `Overlong`, and `STRANGE` for another shape.
        """
        # First, because it has the paid tokens, also of an answer that is too long.
        usage = completion.get("usage") or {}
        if usage.get("prompt_tokens") is not None and usage.get("completion_tokens") is not None:
            self.usage = (usage["prompt_tokens"], usage["completion_tokens"])
        if error := error_of(completion):
            raise error_in(error, self.name)
        choices = completion.get("choices")
        if not choices:
            return
        # One answer was asked for; of several, the first by number is read.
        choice = min(choices, key=_number)
        if self.started and _number(choice) > self._index:
            return
        if self.started and _number(choice) < self._index:
            self._forget()
        self.started, self._index = True, _number(choice)
        said = choice.get("delta") or {}
        if not said and not self.pieces:
            said = choice.get("message") or {}
        text = _content(said, self.reasoning, self.refused)
        self._note(said, choice.get("finish_reason"))
        self._write(text)

    def _forget(self) -> None:
        """Of the choice that was read so far, nothing is kept."""
        self.left, self.finish, self.calls_tools = self.most, None, False
        for pieces in (self.pieces, self.reasoning, self.refused):
            pieces.clear()

    def _note(self, said: dict[str, Any], finish: object) -> None:
        """Remember what is not text: reasoning, a refusal, tool calls, why the answer ended."""
        for name in ("reasoning_content", "reasoning", "thinking"):
            if isinstance(said.get(name), str):
                self.reasoning.append(said[name])
        if isinstance(said.get("refusal"), str):
            self.refused.append(said["refusal"])
        self.calls_tools = self.calls_tools or bool(said.get("tool_calls") or said.get("function_call"))
        if isinstance(finish, dict):
            finish = finish.get("type")
        if finish and str(finish).lower() not in ("null", "none"):
            self.finish = str(finish).lower()
        if self.finish in BROKEN:
            reason, self.finish = self.finish, None
            raise InvalidReply(f"{self.name}: the model gave up inside its answer: {reason}", sentence=reason or "")

    def _write(self, said: str) -> None:
        encoded = said.encode("utf-8", "surrogatepass")
        if len(encoded) > self.left:
            said = encoded[: self.left].decode("utf-8", "ignore")
        self.pieces.append(said)
        self.left -= len(encoded)
        if self.left < 0:
            self.finish = "length"
            raise Overlong(f"more than {self.most} bytes of text")


def reply_of(completion: Completion, used: Used, name: str) -> Reply:
    """The reply in a complete `completion` of the deployment `name`.

    Raises `ModelRefused` when the model or its filter declined, `NoAnswer` when there is no text for another reason.
    """
    if refusal := completion.refusal.strip():
        why = redacted(refusal)
        raise ModelRefused(f"{name}: the model declined to answer: {why}", sentence=why, used=used)
    if completion.finish in FILTERED:
        raise ModelRefused(f"{name}: the provider's content filter stopped the answer", filtered=True, used=used)
    text = completion.text
    in_words = calls_tools(text, completion.written)
    if not in_words and without_special_tokens(text):
        return Reply(
            text,
            used.prompt_tokens,
            used.completion_tokens,
            cut_off=completion.finish in LENGTH,
            estimated=used.estimated,
        )
    if in_words or completion.calls_tools or completion.finish in TOOLS:
        why = (
            "the model called a tool, but none was offered; switch tool calling off in the server, or use another model"
        )
        raise NoAnswer(Code.TOOL_CALLED, f"{name}: {why}", used)
    if completion.finish in LENGTH or any(completion.reasoning) or without_special_tokens(completion.written):
        why = (
            "all of answer_tokens went into the model's reasoning, and no answer was written; raise answer_tokens in "
            "the use case, or lower reasoning_effort in models.yaml"
        )
        raise NoAnswer(Code.REASONING_ONLY, f"{name}: {why}", used)
    why = "the model ended its answer without a word; check its chat template and the prompt, or use another model"
    raise NoAnswer(Code.EMPTY_ANSWER, f"{name}: {why}", used)


def _content(said: dict[str, Any], reasoning: list[str], refused: list[str]) -> str:
    """The text of a message or delta; its reasoning and refusal, when they are parts of the content, are added."""
    content = said.get("content") or ""
    if isinstance(content, list):
        text = ""
        for part in content:
            match part["type"]:
                case "text" | "output_text":
                    text += part["text"]
                case "refusal":
                    refused.append(part["refusal"])
                case str() as kind if "think" in kind or "reason" in kind:  # Mistral's `thinking`, and what may come
                    reasoning.append(json.dumps(part))
                case _:  # an image, say
                    pass
        return text
    if not isinstance(content, str):
        raise TypeError(f"content is {type(content).__name__}")
    return content


def _number(choice: dict[str, Any]) -> int:
    """The index of a choice, which some servers leave out."""
    index = choice.get("index")
    return index if isinstance(index, int) else 0


def _documents(event: bytes) -> Iterator[bytes]:
    """The JSON documents of an event: one, over several lines, or one in each line where no blank line parts them."""
    if b"\n" not in event:
        yield event
        return
    try:
        json.loads(event)
    except ValueError:
        yield from event.split(b"\n")
    else:
        yield event


async def _again(first: bytes, received: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """`first`, then the rest of `received`."""
    yield first
    async for block in received:
        yield block
