"""The naive script that `benchmarks.question` compares with: retrieval-augmented answers in one process, and no more.

For each question one embedding call, one hybrid query with payload and one streamed chat call, all by the default
clients of `openai` and `qdrant-client`. No queue, no rights, no budget, no cache, no retry of its own, no trace.

It reads a line of JSON (a list of questions) from stdin, answers them, and writes a line of JSON with what that cost;
then the next line, until stdin ends. `RAGBUS_MODEL_ENDPOINT` and `RAGBUS_QDRANT_URL` say where.
"""

import asyncio
import json
import os
import sys
import time
from dataclasses import asdict, dataclass

from openai import AsyncAzureOpenAI
from qdrant_client import AsyncQdrantClient, models

from benchmarks.question.shapes import CHAT, COLLECTION, DIMENSIONS, EMBEDDINGS, SHAPES, SYSTEM
from shared.embeddings import sparse


@dataclass
class Cost:
    """What a batch of questions took in this process."""

    questions: int
    cpu_seconds: float = 0.0
    seconds: float = 0.0
    prompt_tokens: int = 0
    completion_tokens: int = 0


async def answer(question: str, model: AsyncAzureOpenAI, store: AsyncQdrantClient, cost: Cost) -> str:
    """Answer one question and add its tokens to `cost`."""
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
    stream = await model.chat.completions.create(
        model=CHAT,
        messages=[
            {"role": "system", "content": SYSTEM},
            {"role": "user", "content": f"{passages}\n\nQuestion: {question}"},
        ],
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
    return "".join(said)


async def answer_all(questions: list[str], model: AsyncAzureOpenAI, store: AsyncQdrantClient) -> Cost:
    """Answer all questions, as many at once as the system is asked at once."""
    cost, waiting = Cost(len(questions)), iter(questions)

    async def one_after_the_other() -> None:
        for question in waiting:
            if not await answer(question, model, store, cost):
                raise SystemExit(f"the model said nothing to {question!r}")

    began, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(one_after_the_other() for _ in range(SHAPES.in_flight)))
    cost.seconds, cost.cpu_seconds = time.perf_counter() - began, time.process_time() - cpu
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
