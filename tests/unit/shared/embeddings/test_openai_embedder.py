"""The embedding adapter, against a provider over a real socket."""

import json
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from shared.embeddings.openai import BATCH, OpenAIEmbedder
from shared.errors import DependencyDown
from shared.llm.client import make_client
from shared.llm.deployments import Deployment
from shared.llm.errors import NOTHING, Fault, ModelDown, ModelError, ModelMisconfigured, Used
from shared.llm.tokens import count_tokens
from tests.support.odd_provider import Answer, OddProvider, body, html, status


def embeddings(asked: dict[str, Any], *, length: int = 2, usage: Any = None) -> Answer:
    """Answers in reverse order; a vector says which text it is for."""
    data = [{"index": n, "embedding": [float(text), *[1.0] * (length - 1)]} for n, text in enumerate(asked["input"])]
    return body({"data": data[::-1], "usage": usage})


class Fixture:
    def __init__(self, provider: OddProvider) -> None:
        self.provider = provider

    async def embed(
        self,
        texts: list[str],
        timeout: float = 300,  # noqa: ASYNC109
        within: timedelta | None = None,
        **changes: Any,
    ) -> Any:
        given = {"name": "e", "provider": "openai", "model": "m", "kind": "embedding", "region": "r"}
        deployment = Deployment.model_validate(
            {**given, "endpoint": self.provider.url, "context_window": 8000, "dimensions": 2, **changes}
        )
        client = make_client(deployment, timeout=timedelta(seconds=timeout), environment={})
        try:
            return await OpenAIEmbedder(client, deployment, timeout=within).embed(texts)
        finally:
            await client.close()


@pytest.fixture
async def service() -> AsyncIterator[Fixture]:
    async with OddProvider(embeddings) as provider:
        yield Fixture(provider)


async def test_vectors_come_in_the_order_of_the_texts_however_many_there_are(service: Fixture) -> None:
    texts = [str(n) for n in range(2 * BATCH + 1)]
    embedded = await service.embed(texts)
    assert [vector[0] for vector in embedded.vectors] == [float(n) for n in range(2 * BATCH + 1)]
    assert [len(call["input"]) for call in service.provider.asked] == [BATCH, BATCH, 1]


async def test_dimensions_are_requested_unless_the_model_cannot_choose(service: Fixture) -> None:
    await service.embed(["1"])
    await service.embed(["1"], send_dimensions=False)
    able, unable = service.provider.asked
    assert able["dimensions"] == 2
    assert "dimensions" not in unable


@pytest.mark.parametrize("text", ["", "  \n"])
async def test_an_empty_text_is_refused_before_anything_is_paid(service: Fixture, text: str) -> None:
    with pytest.raises(ValueError, match="empty text"):
        await service.embed(["1", text])
    assert not service.provider.asked


async def test_without_texts_no_call_is_made(service: Fixture) -> None:
    assert (await service.embed([])).vectors == []
    assert not service.provider.asked


async def test_errors_are_translated_and_kept_as_the_cause(service: Fixture) -> None:
    service.provider.play(status(503, {"error": {"message": "loading"}}, {"retry-after": "3"}))
    with pytest.raises(ModelDown, match="loading") as raised:
        await service.embed(["1"])
    assert raised.value.after == timedelta(seconds=3)
    assert raised.value.__cause__ is not None


@pytest.mark.parametrize(
    ("answer", "fault", "is_paid"),
    [
        (html("Sign in"), Fault.DOWN, False),
        (body({"error": {"message": "overloaded"}}), Fault.DOWN, False),
        (body(b"x" * 3_000_000), Fault.DOWN, False),
        (Answer((b'{"data": [',), end="reset"), Fault.DOWN, True),
        (status(503, {"error": "loading"}), Fault.DOWN, False),
        (status(404, {"error": "no such model"}), Fault.CONFIGURATION, False),
        (status(429, {"error": {"message": "no", "code": "insufficient_quota"}}), Fault.CONFIGURATION, False),
    ],
)
async def test_what_is_no_reply_has_its_fault_and_is_paid_if_an_answer_had_begun(
    service: Fixture, answer: Answer, fault: Fault, is_paid: bool
) -> None:
    service.provider.play(answer)
    with pytest.raises(ModelError) as raised:
        await service.embed(["1"])
    assert raised.value.fault is fault
    assert raised.value.used == (Used(count_tokens("1"), estimated=True) if is_paid else NOTHING)
    assert isinstance(raised.value, DependencyDown) is (fault is Fault.DOWN)


async def test_a_reply_that_drips_is_given_up_when_its_time_is_over(service: Fixture) -> None:
    service.provider.play(Answer([b" "] * 100_000, pause=0.01))
    with pytest.raises(ModelDown, match=r"no complete reply within 0\.3 s") as raised:
        await service.embed(["1"], within=timedelta(seconds=0.3))
    assert raised.value.used.tokens == count_tokens("1")


async def test_a_call_that_is_answered_too_late_is_paid(service: Fixture) -> None:
    service.provider.play(Answer(before=300))
    with pytest.raises(ModelDown) as raised:
        await service.embed(["1"], timeout=0.2)
    assert raised.value.used.tokens == count_tokens("1")


async def test_a_server_that_cannot_be_reached_is_not_paid(service: Fixture) -> None:
    with pytest.raises(ModelDown) as raised:
        await service.embed(["1"], endpoint="http://127.0.0.1:1/v1")
    assert raised.value.used == NOTHING


async def test_vectors_of_another_length_than_configured_are_the_operators_to_mend_and_paid(service: Fixture) -> None:
    service.provider.play(lambda asked: embeddings(asked, length=3))
    with pytest.raises(ModelMisconfigured, match="3 dimensions") as raised:
        await service.embed(["1"])
    assert raised.value.used.tokens == count_tokens("1")


async def test_a_parameter_that_is_refused_is_learned(service: Fixture) -> None:
    def strict(asked: dict[str, Any]) -> Answer:
        if "dimensions" in asked:
            return status(400, {"error": {"message": "This model does not support specifying dimensions."}})
        return embeddings(asked)

    service.provider.play(strict)
    assert (await service.embed(["7"])).vectors == [[7.0, 1.0]]
    assert len(service.provider.asked) == 2


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [({"prompt_tokens": 7, "total_tokens": 7}, 14), ({"prompt_tokens": 0}, None), ({}, None), (None, None)],
)
async def test_the_provider_s_token_count_is_returned_and_none_without_one(
    service: Fixture, usage: Any, tokens: int | None
) -> None:
    service.provider.play(lambda asked: embeddings(asked, usage=usage))
    embedded = await service.embed(["1"] * (BATCH + 1))
    assert embedded.tokens == tokens


async def test_a_refusal_does_not_quote_the_texts(service: Fixture) -> None:
    detail = [{"loc": ["body", "input"], "msg": "Input is not valid", "input": "a secret"}]
    service.provider.play(status(422, json.dumps({"detail": detail})))
    with pytest.raises(ModelMisconfigured, match="Input is not valid") as raised:
        await service.embed(["1"])
    assert "a secret" not in str(raised.value)
