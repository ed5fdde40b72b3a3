"""What the generator makes of a model's stream: the real SDK and our reading of it, on the laptop's model and worse."""

import asyncio
import itertools
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from datetime import timedelta
from typing import Any

import httpx
import pytest

from services.generator.chat import LEAST_TEXT, TEXT_PER_TOKEN, Chat
from services.generator.reply import CallTimeout, Cancelled, Reply
from shared.errors import DependencyDown, TryLater, Unprocessable
from shared.llm.deployments import Deployment
from shared.llm.errors import ContextTooLong, ModelDown, ModelMisconfigured, ModelRefused, Throttled
from shared.telemetry.metrics import make

PROMPT = (
    {"role": "system", "content": "Answer from the passages."},
    {
        "role": "user",
        "content": "[[passage 1 8f3a2c41 | Leave]]\nEmployees in Spain receive 16 weeks of paid parental leave.\n"
        "[[end 1 8f3a2c41]]\n\nQuestion: How many weeks of parental leave do employees in Spain receive?",
    },
)
SAID = "Employees in Spain receive 16 weeks of paid parental leave. [1]"
WITHIN = timedelta(seconds=60)


async def never() -> None:
    """The answer is wanted to the end."""
    await asyncio.Event().wait()


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """A model of the laptop's, for the module."""
    process = subprocess.Popen([sys.executable, "-m", "local.llm", "--port", "0"], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    found = re.search(r"http://\S+", process.stderr.readline())
    assert found
    yield found[0]
    process.terminate()
    process.communicate(timeout=300)


class Model:
    """The model, and how to make it misbehave."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.chat = Chat(timedelta(seconds=60), make())
        self.control = httpx.AsyncClient(base_url=url, timeout=300)

    async def fail(self, **rule: Any) -> None:
        (await self.control.post("/control/faults", json=[rule] if rule else [])).raise_for_status()

    async def call(self) -> dict[str, Any]:
        """The last one as the model saw it."""
        return dict((await self.control.get("/control/calls")).raise_for_status().json()[-1])

    async def ask(self, *, within: timedelta = WITHIN, cancelled: Any = never, **deployment: Any) -> Reply:
        return await self.chat.complete(
            a_deployment(self.url, **deployment), PROMPT, answer_tokens=100, within=within, cancelled=cancelled
        )

    async def close(self) -> None:
        await self.chat.close()
        await self.control.aclose()


def a_deployment(url: str, **changes: Any) -> Deployment:
    given = {"provider": "azure", "endpoint": url, "key_env": "MODEL_KEY", "stream": True, **changes}
    if given["provider"] == "azure":
        given["api_version"] = "2024-10-21"
    return Deployment.model_validate(
        {"name": "-".join(changes) or "plain", "model": "m", "region": "r", "context_window": 4000, **given}
    )


@pytest.fixture
async def model(server: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Model]:
    monkeypatch.setenv("MODEL_KEY", "k")
    found = Model(server)
    await found.fail()
    yield found
    await found.close()


DIALECTS: list[dict[str, Any]] = [{}, {"provider": "compatible"}, {"stream": False}]


@pytest.mark.parametrize("dialect", DIALECTS, ids=["azure", "compatible", "not a stream"])
async def test_an_answer_is_read_whole_and_counted_by_the_provider(model: Model, dialect: dict[str, Any]) -> None:
    if dialect.get("provider"):
        dialect = {**dialect, "endpoint": f"{model.url}/v1"}
    reply = await model.ask(**dialect)
    call = await model.call()
    assert reply.text == SAID
    assert (reply.prompt_tokens, reply.completion_tokens) == (call["prompt_tokens"], call["completion_tokens"])
    assert (reply.estimated, reply.cut_off) == (False, False)
    assert call["stream"] is dialect.get("stream", True)


@pytest.mark.parametrize("after", [0, 1, 5, 12])
async def test_half_an_answer_is_not_an_answer(model: Model, after: int) -> None:
    await model.fail(cut_stream_after=after)
    with pytest.raises(DependencyDown):
        await model.ask()


@pytest.mark.parametrize("stream", [True, False])
async def test_an_unreadable_answer_is_not_an_answer(model: Model, stream: bool) -> None:
    await model.fail(malformed=True)
    with pytest.raises(DependencyDown):
        await model.ask(stream=stream)


@pytest.mark.parametrize(
    ("rule", "means"),
    [
        ({"status": 429, "retry_after": 7}, Throttled),
        ({"status": 503, "retry_after": 7}, ModelDown),
        ({"status": 400, "code": "context_length_exceeded"}, ContextTooLong),
        ({"status": 400, "code": "content_filter"}, ModelRefused),
    ],
)
async def test_a_refused_stream_is_reported_by_its_status(
    model: Model, rule: dict[str, Any], means: type[Exception]
) -> None:
    await model.fail(**rule)
    with pytest.raises(means) as failure:
        await model.ask()
    assert type(failure.value) is means
    if isinstance(failure.value, TryLater):
        assert failure.value.after == timedelta(seconds=7)


async def stopped(model: Model) -> dict[str, Any]:
    """The last call, once the model has seen that its connection is closed."""
    async with asyncio.timeout(300):
        while not (call := await model.call())["stopped"]:
            await asyncio.sleep(0.01)
    return call


async def heard(model: Model, chunks: int) -> None:
    async with asyncio.timeout(300):
        while (await model.call())["chunks"] < chunks:
            await asyncio.sleep(0.01)


async def test_a_cancelled_answer_is_stopped_and_its_tokens_are_counted(model: Model) -> None:
    await model.fail(chunk_latency=1)

    async def cancelled() -> None:
        await heard(model, 2)

    with pytest.raises(Cancelled) as end:
        await model.ask(cancelled=cancelled)
    call = await stopped(model)
    assert 2 <= call["chunks"] < 12
    assert 0.5 * call["prompt_tokens"] < end.value.used.tokens < 2 * call["prompt_tokens"]


async def test_a_cancelled_call_without_any_answer_yet_is_stopped(model: Model) -> None:
    await model.fail(hang=True)

    async def cancelled() -> None:
        async with asyncio.timeout(300):
            while (await model.call())["fault"] != "hang":
                await asyncio.sleep(0.01)

    with pytest.raises(Cancelled):
        await model.ask(cancelled=cancelled)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    "begun", [b"", b"HTTP/1.1 200 OK\r\ncontent-length: 9999\r\n\r\n{"], ids=["no answer yet", "half"]
)
async def test_the_provider_of_a_cancelled_call_is_hung_up_on(
    stream: bool, begun: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, hung_up = asyncio.Event(), asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"}")
        writer.write(begun)
        await writer.drain()
        asked.set()
        with suppress(ConnectionError):
            await reader.read()  # returns when the client has closed the connection
        writer.close()
        hung_up.set()

    async def cancelled() -> None:
        await asked.wait()

    monkeypatch.setenv("MODEL_KEY", "k")
    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    chat = Chat(WITHIN, make())
    deployment = a_deployment(f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}", stream=stream)
    async with asyncio.timeout(300):
        with pytest.raises(Cancelled):
            await chat.complete(deployment, PROMPT, answer_tokens=9, within=WITHIN, cancelled=cancelled)
        await hung_up.wait()
    listening.close()
    await chat.close()


async def test_an_answer_that_takes_too_long_is_stopped(model: Model) -> None:
    await model.fail(chunk_latency=10)
    with pytest.raises(CallTimeout) as end:
        await model.ask(within=timedelta(seconds=5))  # in the middle of it, on a busy machine too
    assert (await stopped(model))["chunks"] < 12
    assert end.value.used.tokens > 0


async def test_a_failed_watch_is_a_bug_and_not_a_cancellation(model: Model) -> None:
    async def cancelled() -> None:
        raise KeyError("bug")

    await model.fail(hang=True)
    with pytest.raises(KeyError):
        await model.ask(cancelled=cancelled)


# -- servers that speak the protocol in their own way


CHUNK = '{"choices": [{"index": 0, "delta": {"content": "%s"}, "finish_reason": %s}]}'
USAGE = '{"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}}'


async def told(
    body: bytes | Iterator[bytes], monkeypatch: pytest.MonkeyPatch, status: str = "200 OK", **deployment: Any
) -> Reply:
    """What is made of a server that sends `body` and hangs up, or is hung up on."""
    blocks = [body] if isinstance(body, bytes) else body
    hung_up = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(f"HTTP/1.1 {status}\r\ncontent-type: text/event-stream\r\n\r\n".encode())
        with suppress(ConnectionError):
            for block in blocks:
                writer.write(block)
                await writer.drain()
            if blocks is body:
                await reader.read()  # it would go on until the client closes the connection
        writer.close()
        hung_up.set()

    monkeypatch.setenv("MODEL_KEY", "k")
    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/v1"
    chat = Chat(WITHIN, make())
    try:
        reply = await chat.complete(
            a_deployment(url, provider="compatible", **deployment),
            PROMPT,
            answer_tokens=9,
            within=WITHIN,
            cancelled=never,
        )
        async with asyncio.timeout(300):
            await hung_up.wait()
        return reply
    finally:
        await chat.close()
        listening.close()
        await listening.wait_closed()


def events(*data: str, end: str = "\n\n") -> bytes:
    return "".join(f"data: {each}{end}" for each in data).encode()


async def test_a_server_that_does_not_count_has_its_tokens_estimated(monkeypatch: pytest.MonkeyPatch) -> None:
    reply = await told(events(CHUNK % ("a few words", '"stop"'), "[DONE]"), monkeypatch)
    assert reply.estimated
    assert (reply.text, reply.completion_tokens) == ("a few words", 3)
    assert reply.prompt_tokens > 20


@pytest.mark.parametrize(
    "body",
    [
        events(CHUNK % ("one", "null"), CHUNK % (" two", '"stop"'), USAGE, "[DONE]", end="\r\n\r\n"),
        b": keep-alive\n\nevent: message\nid: 7\n" + events(CHUNK % ("one two", '"stop"'), USAGE, "[DONE]"),
        events(CHUNK % ("one two", "null"), CHUNK % ("", '"stop"'), USAGE),  # without an end
        events(CHUNK % ("one two", '"stop"'), USAGE, "half a chu"),  # it broke after the end
        events("", CHUNK % ("one two", '"stop"'), "", USAGE, "[DONE]"),
        events('{"choices": [], "usage": {"prompt_tokens": null}}', CHUNK % ("one two", '"stop"'), USAGE),
        events(
            '{"choices": [{"delta": {"content": [{"type": "text", "text": "one two"}]}, "finish_reason": "stop"}]}',
            USAGE,
        ),
        events(CHUNK % ("one two", '"stop"'), USAGE, '{"error": {"message": "too late"}}'),
    ],
    ids=[
        "crlf",
        "comments and fields",
        "no DONE",
        "broken after the end",
        "signs of life",
        "counts of nothing",
        "parts",
        "error after the end",
    ],
)
async def test_text_around_the_events_makes_no_difference(body: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    reply = await told(body, monkeypatch)
    assert (reply.text, reply.prompt_tokens, reply.completion_tokens) == ("one two", 9, 3)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        events("[DONE]"),
        events(CHUNK % ("one", "null"), '{"error": {"message": "overloaded"}}'),
        events("[]"),
        events('{"choices": 7}'),
        events("[" * 200_000),
        events('{"choices": [], "usage": {"prompt_tokens": 1e999, "completion_tokens": 1}}'),
        events('{"choices": [{"delta": {"content": 7}, "finish_reason": "stop"}]}'),
        events(CHUNK % ("one", "null")),
        events(CHUNK % ("one", '"error"')),
        b"upstream connect error",
    ],
)
async def test_an_incomplete_answer_is_tried_again(body: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DependencyDown):
        await told(body, monkeypatch)


@pytest.mark.parametrize(
    ("chunks", "said"),
    [
        (("one \\ud83d", "\\ude42 two"), "one 🙂 two"),
        (("one\\ud83d", " two"), "one two"),
        (("\\ude42\\ud83done",), "one"),
    ],
    ids=["a pair in two chunks", "half a pair", "the wrong way round"],
)
async def test_halves_of_a_character_are_joined_or_left_out(
    chunks: tuple[str, ...], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = [CHUNK % (chunk, "null") for chunk in chunks]
    assert (await told(events(*sent, CHUNK % ("", '"stop"'), USAGE), monkeypatch)).text == said


async def test_a_unicode_line_separator_does_not_split_a_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    reply = await told(events(CHUNK % ("one\u2028two\x85three", '"stop"'), USAGE), monkeypatch)
    assert reply.text == "one\u2028two\x85three"


async def test_an_answer_that_the_filter_stops_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelRefused) as refused:
        await told(events(CHUNK % ("", '"content_filter"'), USAGE), monkeypatch)
    assert refused.value.used.tokens > 0


async def test_an_answer_that_was_cut_at_its_limit_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (await told(events(CHUNK % ("one", '"length"'), USAGE), monkeypatch)).cut_off


# -- answers without an end


def endless(block: bytes, first: bytes = b"") -> Iterator[bytes]:
    """A server that sends until the connection is closed, or 40 MB, which is far too much."""
    return itertools.chain([first], itertools.repeat(block * max(1, 65_536 // len(block)), 640))


WORDS = b"words \xe6\xbc\xa2\xf0\x9f\x99\x82 "
WHOLE = b'{"choices": [{"index": 0, "message": {"role": "assistant", "content": "'


@pytest.mark.parametrize(
    ("body", "stream", "said"),
    [
        (endless(events(CHUNK % (WORDS.decode(), "null"))), True, "words 漢"),
        (endless(b" ", events(CHUNK % ("one", "null"))), True, "one"),
        (endless(b"\n\n", events(CHUNK % ("one", "null"))), True, "one"),
        (endless(events(CHUNK % ("", "null")), events(CHUNK % ("one", "null"))), True, "one"),
        (endless(b": keep-alive\n\n", events(CHUNK % ("one", "null"))), True, "one"),
        (endless(WORDS, WHOLE), False, "words 漢"),
        (endless(b"\\n", WHOLE + b"one"), False, "one\n"),
        (endless(b" ", WHOLE + b'one"'), False, "one"),
    ],
    ids=[
        "chunks", "blanks", "empty lines", "empty chunks", "comments",
        "a body", "a body of escapes", "a body of blanks",
    ],
)  # fmt: skip
async def test_an_endless_answer_is_cut_off_and_no_longer_paid_for(
    body: Iterator[bytes], stream: bool, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reply = await told(body, monkeypatch, stream=stream)  # returns when the server has been hung up on
    assert reply.cut_off
    assert reply.estimated
    assert reply.tokens >= 20
    assert reply.text.startswith(said)
    assert len(reply.text.encode()) <= LEAST_TEXT


@pytest.mark.parametrize("stream", [True, False])
async def test_a_model_that_ignores_its_limit_is_cut_off(model: Model, stream: bool) -> None:
    await model.fail(repeat=1_000, chunk_latency=0.001)  # so that it is not done before it is stopped
    reply = await model.ask(stream=stream)
    assert reply.cut_off
    assert reply.text.startswith(SAID)
    assert len(reply.text) == 100 * TEXT_PER_TOKEN
    if stream:
        assert (await stopped(model))["chunks"] < 9_000
    else:
        assert reply.completion_tokens == (await model.call())["completion_tokens"]


async def test_data_after_a_complete_answer_does_not_cut_it_off(monkeypatch: pytest.MonkeyPatch) -> None:
    reply = await told(endless(b": bye\n\n", events(CHUNK % ("one", '"stop"'), USAGE, "[DONE]")), monkeypatch)
    assert (reply.text, reply.cut_off, reply.prompt_tokens) == ("one", False, 9)


@pytest.mark.parametrize(
    "body",
    [
        b"<html>sign in</html>",
        b"[]",
        b"7",
        b'{"choices": []}',
        b'{"choices": null}',
        b"[" * 200_000,
        b'{"error": {"message": "overloaded"}}',
        b'{"choices": [{"message": {"content": ["parts"]}, "finish_reason": "stop"}]}',
    ],
)
async def test_a_body_that_is_not_a_completion_is_tried_again(body: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DependencyDown):
        await told(body, monkeypatch, stream=False)


async def test_a_long_error_is_shortened(monkeypatch: pytest.MonkeyPatch) -> None:
    page = "an error page " * 40_000
    with pytest.raises(DependencyDown) as failure:
        await told(events(CHUNK % ("one", "null"), '{"error": {"message": "%s"}}' % page), monkeypatch)  # noqa: UP031
    assert 20 < len(str(failure.value)) < 1_000


async def test_a_long_refusal_is_shortened(model: Model) -> None:
    await model.fail(status=422, message="an error page " * 80_000)
    with pytest.raises(Unprocessable) as failure:
        await model.ask()
    assert 20 < len(str(failure.value)) < 1_000


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("status", "means"), [("502 Bad Gateway", ModelDown), ("429 Slow Down", Throttled), ("422 No", ModelMisconfigured)]
)
async def test_an_endless_error_is_an_error(
    status: str, means: type[Exception], stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(means) as failure:
        await told(endless(b"<p>an error page "), monkeypatch, status, stream=stream)
    assert type(failure.value) is means  # and not a call that took too long
    assert len(str(failure.value)) < 1_000
