"""The naive script that `benchmarks.question` compares with: retrieval-augmented answers in one process, and no more.

For each question one embedding call, one hybrid query with payload and one streamed chat call, all by the default
clients of `openai` and `qdrant-client`. No queue, no rights, no budget, no cache, no retry of its own, no trace.

Afterwards it makes the chat calls once more, alone: the bare call, with which the generator is compared.

It reads a line of JSON (a list of questions) from stdin, answers them, and writes a line of JSON with what that cost;
then the next line, until stdin ends. `RAGBUS_MODEL_ENDPOINT` and `RAGBUS_QDRANT_URL` say where.
"""

import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TypeVar

from openai import AsyncAzureOpenAI
from openai.types.chat import ChatCompletionMessageParam
from qdrant_client import AsyncQdrantClient, models

from benchmarks.question.shapes import CHAT, COLLECTION, DIMENSIONS, EMBEDDINGS, SHAPES, SYSTEM
from shared.embeddings import sparse

T = TypeVar("T")
Messages = list[ChatCompletionMessageParam]


@dataclass
class Cost:
    """What a batch of questions took in this process."""

    questions: int
    cpu_seconds: float = 0.0
    seconds: float = 0.0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    call_cpu_seconds: float = 0.0
    """Of the chat calls alone."""


async def prompt_for(question: str, model: AsyncAzureOpenAI, store: AsyncQdrantClient) -> Messages:
    """Embed a question and search with it: the messages of its chat call."""
    embedded = await model.embeddings.create(model=EMBEDDINGS, input=[question], dimensions=DIMENSIONS)
    terms = sorted(sparse.of_question(question).items())
    bm25 = models.SparseVector(indices=[term for term, _ in terms], values=[weight for _, weight in terms])
    found = await store.query_points(
        COLLECTION,
        prefetch=[
            models.Prefetch(query=embedded.data[0].embedding, using="dense", limit=SHAPES.points),
            models.Prefetch(query=bm25, using="bm25", limit=SHAPES.points),
        ],
        query=models.FusionQuery(fusion=models.Fusion.RRF),
        limit=SHAPES.points,
        with_payload=True,
    )
    passages = "\n\n".join(
        f"[[passage {number} 5eed | {payload['title']}]]\n{payload['text']}\n[[end {number} 5eed]]"
        for number, payload in enumerate((point.payload or {} for point in found.points[: SHAPES.passages]), 1)
    )
    return [
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": f"{passages}\n\nQuestion: {question}"},
    ]


async def call(messages: Messages, model: AsyncAzureOpenAI, cost: Cost) -> None:
    """Stream one answer and add its tokens to `cost`."""
    stream = await model.chat.completions.create(
        model=CHAT,
        messages=messages,
        max_tokens=SHAPES.answer_tokens,
        stream=True,
        stream_options={"include_usage": True},
    )
    said = []
    async for chunk in stream:
        said += [choice.delta.content for choice in chunk.choices if choice.delta.content]
        if chunk.usage is not None:
            cost.prompt_tokens += chunk.usage.prompt_tokens
            cost.completion_tokens += chunk.usage.completion_tokens
    if not said:
        raise SystemExit(f"the model said nothing to {messages[-1]}")


async def measured(work: Callable[[T], Awaitable[None]], items: Sequence[T]) -> tuple[float, float]:
    """Do `work` for each of `items`, as many at once as the system is asked at once: seconds, and seconds of CPU."""
    waiting = iter(items)

    async def one_after_the_other() -> None:
        for item in waiting:
            await work(item)

    began, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(one_after_the_other() for _ in range(SHAPES.in_flight)))
    return time.perf_counter() - began, time.process_time() - cpu


async def answer_all(questions: list[str], model: AsyncAzureOpenAI, store: AsyncQdrantClient) -> Cost:
    """Answer all questions; then repeat their chat calls, which are counted in `call_cpu_seconds` only."""
    cost, prompts = Cost(len(questions)), list[Messages]()

    async def answer(question: str) -> None:
        messages = await prompt_for(question, model, store)
        prompts.append(messages)
        await call(messages, model, cost)

    async def repeat(messages: Messages) -> None:
        await call(messages, model, Cost(0))

    cost.seconds, cost.cpu_seconds = await measured(answer, questions)
    _, cost.call_cpu_seconds = await measured(repeat, prompts)
    return cost


async def main() -> None:
    """Answer each line of stdin."""
    model = AsyncAzureOpenAI(
        azure_endpoint=os.environ["RAGBUS_MODEL_ENDPOINT"],
        api_version="2024-10-21",
        api_key=os.environ.get("RAGBUS_MODEL_KEY", "local"),
    )
    store = AsyncQdrantClient(url=os.environ["RAGBUS_QDRANT_URL"], check_compatibility=False)
    async with model:
        for line in sys.stdin:
            print(json.dumps(asdict(await answer_all(json.loads(line), model, store))), flush=True)
    await store.close()


if __name__ == "__main__":
    asyncio.run(main())
