"""The load of `benchmarks.budget` on LiteLLM's budget limiter: run by a Python that has litellm, not by ours.

Its router filters deployments whose provider has spent its budget, and adds the cost of a call after it.
"""

import asyncio
import json
import os
import resource
import sys
import time
from typing import Any


async def main(redis_port: str, callers: int, asks: int, limit: float, seconds: float) -> None:
    """Ask `asks` times by each of `callers`; prints calls, refusals, USD and CPU seconds as JSON."""
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    import litellm  # type: ignore[import-not-found, unused-ignore]

    litellm.suppress_debug_info = True
    made, refused = 0, 0
    params = {
        "model": "openai/benchmark",
        "api_key": "none",
        "mock_response": "word " * 20,
        "mock_delay": seconds,
        "input_cost_per_token": 0.0001,
        "output_cost_per_token": 0.0002,
    }
    router = litellm.Router(
        model_list=[{"model_name": "benchmark", "litellm_params": params}],
        provider_budget_config={"openai": {"budget_limit": limit, "time_period": "1d"}},
        redis_host="127.0.0.1",
        redis_port=int(redis_port),
        num_retries=0,
        disable_cooldowns=True,
    )
    spent = 0.0
    question: list[Any] = [{"role": "user", "content": "How many days of annual leave do I get? " * 4}]
    began = resource.getrusage(resource.RUSAGE_SELF)
    at = time.perf_counter()

    async def caller() -> None:
        nonlocal made, refused, spent
        for _ in range(asks):
            try:
                reply = await router.acompletion(model="benchmark", messages=question)
            except Exception as error:  # noqa: BLE001 - it raises a plain ValueError when the budget is spent
                refused += 1
                if "budget" not in str(error).lower():
                    sys.stderr.write(f"{error!r}\n")
            else:
                made += 1
                spent += reply.usage.prompt_tokens * 0.0001 + reply.usage.completion_tokens * 0.0002
        await asyncio.sleep(0)

    await asyncio.gather(*(caller() for _ in range(callers)))
    ended = resource.getrusage(resource.RUSAGE_SELF)
    cpu = ended.ru_utime + ended.ru_stime - began.ru_utime - began.ru_stime
    print(json.dumps({"made": made, "refused": refused, "usd": spent, "cpu": cpu, "wall": time.perf_counter() - at}))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]), float(sys.argv[5])))
