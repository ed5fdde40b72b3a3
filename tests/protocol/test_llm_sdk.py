"""The unmodified `openai` SDK judges `local.llm` over a real socket."""

import asyncio
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai import AsyncAzureOpenAI, AsyncOpenAI, DefaultAsyncHttpxClient
from openai.types.chat import ChatCompletionMessageParam

from local.llm.__main__ import main

PASSAGES = """[[passage 1 8f3a2c41 | Leave policy › Parental leave]]
Employees in Spain receive 16 weeks of paid parental leave. Employees in Austria receive 20 weeks.
[[end 1 8f3a2c41]]

Question: {question}"""
QUESTION = "How many weeks of parental leave do employees in Spain receive?"
ANSWER = "Employees in Spain receive 16 weeks of paid parental leave. [1]"
SYSTEM = "Answer from the passages. If the passages do not hold the answer, reply exactly: NO_ANSWER"
CONFIG = """
deployments:
- {name: chat}
- {name: small, context_window: 200}
- {name: slow, rpm: 2, tpm: 100000}
- {name: thrifty, rpm: 1000, tpm: 400}
- {name: embed, context_window: 8191}
- {name: thinker, dialect: reasoning, rpm: 1}
- {name: hoarse, dialect: ollama, context_window: 100}
- {name: ada, context_window: 8191, shortens: false}
"""


def conversation(question: str = QUESTION) -> list[ChatCompletionMessageParam]:
    """A grounded prompt as the generator writes it."""
    return [
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": PASSAGES.format(question=question)},
    ]


def start(*options: str) -> tuple["subprocess.Popen[str]", str]:
    """A server on a free port, and its first line."""
    command = [sys.executable, "-m", "local.llm", *options]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    return server, server.stderr.readline()


def stop(server: "subprocess.Popen[str]") -> tuple[int, str]:
    """SIGTERM, its exit code, and what it said."""
    server.send_signal(signal.SIGTERM)
    _, said = server.communicate(timeout=300)
    return server.returncode, said


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One server for the module."""
    config: Path = tmp_path_factory.mktemp("llm") / "models.yaml"
    config.write_text(CONFIG)
    server, line = start("--port", "0", "--config", str(config))
    found = re.search(r"http://\S+", line)
    assert found, line
    yield found[0]
    assert stop(server)[0] == 0


@pytest.fixture(scope="module")
def http(url: str) -> Iterator[httpx.Client]:
    """Plain HTTP to that server; one client, because making one costs 0.1 s."""
    with httpx.Client(base_url=url, timeout=300) as found:
        yield found


@pytest.fixture(autouse=True)
def _fresh(http: httpx.Client) -> None:
    http.delete("/control/faults")
    http.delete("/control/calls")


def plain() -> DefaultAsyncHttpxClient:
    """The SDK's own transport, without the 0.1 s for certificates that are not used here."""
    return DefaultAsyncHttpxClient(verify=False, timeout=60)


@pytest.fixture
async def client(url: str) -> AsyncIterator[AsyncOpenAI]:
    """OpenAI's client."""
    async with AsyncOpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0, http_client=plain()) as found:
        yield found


@pytest.fixture
async def azure(url: str) -> AsyncIterator[AsyncAzureOpenAI]:
    """Azure's client."""
    async with AsyncAzureOpenAI(
        azure_endpoint=url, api_key="any", api_version="2024-10-21", max_retries=0, http_client=plain()
    ) as found:
        yield found


def faults(http: httpx.Client, *rules: dict[str, Any]) -> None:
    """Set the rules."""
    http.post("/control/faults", json=list(rules)).raise_for_status()


def calls(http: httpx.Client) -> list[dict[str, Any]]:
    """What was called."""
    found: list[dict[str, Any]] = http.get("/control/calls").json()
    return found


async def until(seen: Callable[[], bool]) -> None:
    """Wait for what the server shows."""
    async with asyncio.timeout(300):
        while not seen():
            await asyncio.sleep(0.01)


# ------------------------------------------------------------------ answers


async def test_an_answer_is_quoted_and_counted(client: AsyncOpenAI, http: httpx.Client) -> None:
    reply = await client.chat.completions.create(model="chat", messages=conversation())
    assert reply.choices[0].message.content == ANSWER
    assert reply.choices[0].finish_reason == "stop"
    assert reply.usage is not None
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens
    (call,) = calls(http)
    assert (call["deployment"], call["kind"], call["status"], call["question"]) == ("chat", "chat", 200, QUESTION)
    assert call["prompt_tokens"] == reply.usage.prompt_tokens
    assert call["completion_tokens"] == reply.usage.completion_tokens
    assert reply._request_id == call["id"]


async def test_what_the_passages_do_not_hold_gets_the_sentinel(client: AsyncOpenAI) -> None:
    for messages in (conversation("How many stock options do I get?"), [{"role": "user", "content": "Who are you?"}]):
        reply = await client.chat.completions.create(model="chat", messages=messages)  # type: ignore[arg-type]
        assert reply.choices[0].message.content == "NO_ANSWER"


@pytest.mark.parametrize("base", ["/v1", "/openai/v1"])
async def test_a_stream_says_the_same_and_ends_with_usage(url: str, base: str) -> None:
    async with AsyncOpenAI(base_url=f"{url}{base}", api_key="any", max_retries=0, http_client=plain()) as client:
        stream = await client.chat.completions.create(
            model="chat", messages=conversation(), stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == ANSWER
    assert [chunk.usage is not None for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert chunks[-1].choices == []
    assert chunks[-2].choices[0].finish_reason == "stop"


async def test_azure_streams_open_without_choices(azure: AsyncAzureOpenAI) -> None:
    stream = await azure.chat.completions.create(model="chat", messages=conversation(), stream=True)
    chunks = [chunk async for chunk in stream]
    assert chunks[0].choices == []
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == ANSWER
    assert all(chunk.usage is None for chunk in chunks)


async def test_an_answer_stops_at_its_limit(azure: AsyncAzureOpenAI) -> None:
    reply = await azure.chat.completions.create(model="chat", messages=conversation(), max_completion_tokens=5)
    assert reply.choices[0].message.content == "Employees in Spain receive 16"
    assert reply.choices[0].finish_reason == "length"
    assert reply.usage is not None
    assert reply.usage.completion_tokens == 5


async def test_embeddings_are_unit_vectors_that_know_what_is_alike(client: AsyncOpenAI, http: httpx.Client) -> None:
    texts = ["annual holiday leave", "vacation days", "laser calibration rig"]
    floats = await client.embeddings.create(model="embed", input=texts, encoding_format="float")
    packed = await client.embeddings.create(model="embed", input=texts)  # the SDK asks for base64
    holiday, vacation, laser = (one.embedding for one in packed.data)
    assert [len(one.embedding) for one in floats.data] == [256] * 3
    assert floats.data[0].embedding == pytest.approx(holiday, abs=1e-6)
    assert dot(holiday, holiday) == pytest.approx(1, abs=1e-5)
    assert dot(holiday, vacation) > dot(holiday, laser) + 0.1
    assert packed.usage.total_tokens == calls(http)[-1]["prompt_tokens"] > 0


async def test_embeddings_may_be_shorter(azure: AsyncAzureOpenAI) -> None:
    reply = await azure.embeddings.create(model="embed", input="annual leave", dimensions=64)
    assert len(reply.data[0].embedding) == 64
    assert dot(reply.data[0].embedding, reply.data[0].embedding) == pytest.approx(1, abs=1e-5)
    with pytest.raises(openai.BadRequestError, match="between 1 and 256"):
        await azure.embeddings.create(model="embed", input="annual leave", dimensions=257)


def dot(one: list[float], other: list[float]) -> float:
    """The similarity of two unit vectors."""
    return sum(left * right for left, right in zip(one, other, strict=True))


async def test_models_are_listed(client: AsyncOpenAI) -> None:
    assert [model.id async for model in client.models.list()] == [
        "chat", "small", "slow", "thrifty", "embed", "thinker", "hoarse", "ada"
    ]  # fmt: skip


# ------------------------------------------------------------------ refusals


def test_any_key_is_accepted_and_none_is_refused(http: httpx.Client) -> None:
    answer = http.post("/v1/chat/completions", json={})
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "invalid_api_key"


async def test_unknown_deployments_are_not_found(client: AsyncOpenAI, azure: AsyncAzureOpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as error:
        await client.chat.completions.create(model="nope", messages=conversation())
    assert error.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError) as error:
        await azure.chat.completions.create(model="nope", messages=conversation())
    assert error.value.code == "DeploymentNotFound"


def test_azure_paths_want_an_api_version(http: httpx.Client) -> None:
    answer = http.post("/openai/deployments/chat/chat/completions", json={}, headers={"api-key": "any"})
    assert answer.status_code == 404


async def test_a_prompt_that_does_not_fit_the_window_is_refused(client: AsyncOpenAI, http: httpx.Client) -> None:
    for extra in ({}, {"max_tokens": 150}):
        text = "word " * (100 if extra else 300)
        with pytest.raises(openai.BadRequestError, match="maximum context length is 200 tokens") as error:
            await client.chat.completions.create(  # type: ignore[call-overload]
                model="small", messages=[{"role": "user", "content": text}], **extra
            )
        assert error.value.code == "context_length_exceeded"
    assert [call["completion_tokens"] for call in calls(http)] == [0, 0]


async def test_a_reasoning_model_says_what_to_send_instead(client: AsyncOpenAI, http: httpx.Client) -> None:
    ask = client.chat.completions.create
    with pytest.raises(openai.BadRequestError, match="Use 'max_completion_tokens' instead") as error:
        await ask(model="thinker", messages=conversation(), max_tokens=50)
    assert (error.value.code, error.value.param) == ("unsupported_parameter", "max_tokens")
    reply = await ask(model="thinker", messages=conversation(), max_completion_tokens=50)
    assert reply.choices[0].message.content == ANSWER
    assert [call["status"] for call in calls(http)] == [400, 200]


async def test_ollama_loses_the_beginning_of_a_long_prompt_and_ignores_the_other_limit(client: AsyncOpenAI) -> None:
    [_, asked] = conversation()
    long = [{"role": "user", "content": f"{'word ' * 50}\n" * 20 + str(asked["content"])}]
    reply = await client.chat.completions.create(model="hoarse", messages=long, max_completion_tokens=1)  # type: ignore[arg-type]
    assert reply.usage is not None
    assert reply.usage.prompt_tokens == 100
    short = await client.chat.completions.create(model="hoarse", messages=[asked], max_completion_tokens=1)
    assert short.choices[0].message.content == ANSWER


async def test_a_model_of_one_length_refuses_dimensions(azure: AsyncAzureOpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="does not support specifying dimensions"):
        await azure.embeddings.create(model="ada", input="annual leave", dimensions=64)
    assert len((await azure.embeddings.create(model="ada", input="annual leave")).data[0].embedding) == 256


async def test_requests_per_minute_are_counted(client: AsyncOpenAI) -> None:
    raw = client.chat.completions.with_raw_response
    left = [(await raw.create(model="slow", messages=conversation())).headers for _ in range(2)]
    assert [headers["x-ratelimit-remaining-requests"] for headers in left] == ["1", "0"]
    assert left[0]["x-ratelimit-limit-tokens"] == "100000"
    with pytest.raises(openai.RateLimitError) as error:
        await raw.create(model="slow", messages=conversation())
    headers = error.value.response.headers
    assert error.value.code == "rate_limit_exceeded"
    assert 0 < int(headers["retry-after"]) <= 30
    assert int(headers["retry-after-ms"]) <= 30_000


async def test_tokens_per_minute_count_what_was_asked_for(client: AsyncOpenAI) -> None:
    raw = client.chat.completions.with_raw_response
    first = await raw.create(model="thrifty", messages=conversation(), max_tokens=100)
    usage = first.parse().usage
    assert usage is not None
    assert int(first.headers["x-ratelimit-remaining-tokens"]) == 400 - usage.prompt_tokens - 100
    with pytest.raises(openai.RateLimitError, match="on tokens per min: Limit 400"):
        await raw.create(model="thrifty", messages=conversation(), max_tokens=250)


# ------------------------------------------------------------------ faults


async def test_a_fault_happens_as_often_as_asked(client: AsyncOpenAI, http: httpx.Client) -> None:
    faults(http, {"deployment": "chat", "status": 429, "retry_after": 1.5, "times": 1})
    with pytest.raises(openai.RateLimitError) as error:
        await client.chat.completions.create(model="chat", messages=conversation())
    assert error.value.response.headers["retry-after"] == "2"
    assert error.value.response.headers["retry-after-ms"] == "1500"
    await client.chat.completions.create(model="chat", messages=conversation())
    assert [(call["status"], call["fault"]) for call in calls(http)] == [(429, "status"), (200, None)]


@pytest.mark.parametrize(
    ("rule", "raised"),
    [
        ({"status": 500}, openai.InternalServerError),
        ({"status": 503, "retry_after": 3}, openai.InternalServerError),
        ({"status": 400, "code": "content_filter"}, openai.BadRequestError),
        ({"malformed": True}, openai.APIError),
    ],
)
async def test_failures_arrive_as_the_sdk_knows_them(
    client: AsyncOpenAI, http: httpx.Client, rule: dict[str, Any], raised: type[Exception]
) -> None:
    faults(http, rule)
    if "malformed" in rule:
        raised = ValueError  # the SDK lets the JSON decoder's error through
    with pytest.raises(raised):
        await client.chat.completions.create(model="chat", messages=conversation())


async def test_latency_is_added(client: AsyncOpenAI, http: httpx.Client) -> None:
    faults(http, {"latency": 0.2, "times": 1})
    began = time.monotonic()
    await client.chat.completions.create(model="chat", messages=conversation())
    assert time.monotonic() - began >= 0.2


async def test_a_call_may_hang_and_is_seen_while_it_does(client: AsyncOpenAI, http: httpx.Client) -> None:
    faults(http, {"hang": True, "times": 1})
    hanging = asyncio.create_task(client.chat.completions.create(model="chat", messages=conversation()))
    await until(lambda: [call["fault"] for call in calls(http)] == ["hang"])
    assert calls(http)[0]["status"] is None
    hanging.cancel()
    await until(
        lambda: calls(http)[0]["status"] == 499
    )  # the server looks every 50 ms whether the client is still there


async def test_a_stream_may_break_off(client: AsyncOpenAI, http: httpx.Client) -> None:
    faults(http, {"cut_stream_after": 3})
    stream = await client.chat.completions.create(model="chat", messages=conversation(), stream=True)
    seen: list[str] = []

    async def read() -> None:
        async for chunk in stream:
            seen.append(chunk.choices[0].delta.content or "")  # noqa: PERF401 - what came before the break counts

    with pytest.raises(openai.APIConnectionError):
        await read()
    assert seen == ["", "Employees", " in"]


async def test_a_slow_stream_stops_when_its_reader_hangs_up(client: AsyncOpenAI, http: httpx.Client) -> None:
    faults(http, {"chunk_latency": 1.5})
    stream = await client.chat.completions.create(model="chat", messages=conversation(), stream=True)
    async for chunk in stream:
        if chunk.choices[0].delta.content:
            break
    await stream.close()
    await until(lambda: calls(http)[0]["stopped"])
    [call] = calls(http)
    assert (call["status"], call["fault"]) == (200, "chunk_latency")
    assert 0 < call["chunks"] < 14  # ten words and what is around them


async def test_a_stream_that_was_read_to_its_end_was_not_stopped(client: AsyncOpenAI, http: httpx.Client) -> None:
    faults(http, {"chunk_latency": 0.001})
    stream = await client.chat.completions.create(model="chat", messages=conversation(), stream=True)
    events = [chunk async for chunk in stream]
    [call] = calls(http)
    assert (call["stopped"], call["chunks"]) == (False, len(events) + 1)  # and [DONE]


def test_wrong_rules_are_refused(http: httpx.Client) -> None:
    answer = http.post("/control/faults", json=[{"staus": 1}])
    assert answer.status_code == 400
    assert "staus" in answer.json()["error"]["message"]


# ------------------------------------------------------------------ the process


def test_any_name_works_without_a_config_and_a_hanging_call_does_not_delay_the_end() -> None:
    server, line = start("--port", "0")
    body = {"model": "whatever", "messages": conversation()}
    with httpx.Client(base_url=line.split()[-1], timeout=60, headers={"api-key": "any"}) as http:
        answer = http.post("/v1/chat/completions", json=body)
        began, statuses = time.monotonic(), [http.get("/health").status_code]
        while statuses[-1] != 200 and time.monotonic() - began < 300:
            time.sleep(0.05)
            statuses.append(http.get("/health").status_code)
        faults(http, {"hang": True})
        with pytest.raises(httpx.TimeoutException):
            http.post("/v1/embeddings", json={"model": "e", "input": "x"}, timeout=0.2)
    assert stop(server)[0] == 0
    assert answer.json()["choices"][0]["message"]["content"] == ANSWER
    assert statuses[-1] == 200
    assert set(statuses) <= {200, 503}


@pytest.mark.parametrize("taken", [True, False])
def test_a_port_or_file_that_cannot_be_used_is_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, taken: bool
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        assert main(["--port", port] if taken else ["--config", str(tmp_path / "none.yaml")]) == 1
    (line,) = caplog.messages
    assert ("--port" if taken else "none.yaml") in line


def test_a_request_that_is_addressed_to_another_name_is_refused(url: str) -> None:
    refused = httpx.get(f"{url}/control/calls", headers={"Host": "evil.example"}, timeout=300)
    assert (refused.status_code, "127.0.0.1" in refused.text) == (403, True)
    assert httpx.get(f"{url}/control/calls", timeout=300).status_code == 200
