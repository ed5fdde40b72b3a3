"""What the path of one question costs: `python -m benchmarks.question`, three minutes; `--quick`, one.

Starts the whole system with the example's handbook and asks different questions through the queue, 20 at a time, with
logs, traces (exported to a collector in this process) and every guarantee on, and none answered from the cache. Prints
CPU time per question and process, and the rate. In the same run a naive script (`benchmarks/question/naive.py`) answers
as many: embed, one hybrid query, one streamed chat call, in one process with the default clients; it then repeats the
chat calls alone: the bare call. System and script take turns; each ratio is of one turn. The models, Qdrant and Service
Bus are the stand-ins, whose CPU is shown apart.
"""

import argparse
import asyncio
import json
import os
import platform
import random
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path
from statistics import fmean, median
from typing import Any

import yaml
from azure.servicebus.aio import ServiceBusClient

from benchmarks.question.naive import Cost
from benchmarks.question.shapes import SHAPES
from local.stack import Stack
from local.stack.stack import EXAMPLE
from local.stack.usage import cpu_seconds
from ops.registry import documents
from ops.target import read_stack
from ops.upstream import Upstream

WORKERS = ("gateway", "retriever", "generator", "indexer")
ON_THE_WAY = ("gateway", "retriever", "generator")
STAND_INS = ("broker", "vectors", "llm", "redis", "lake")
ROUNDS = 3
WARM_UP = 40
VERSIONS = ("azure-servicebus", "openai", "qdrant-client", "redis", "pydantic", "opentelemetry-sdk", "structlog")


@dataclass
class Turn:
    """What one round of questions cost the system and the script."""

    cpu_ms: dict[str, float]
    """Per question, by process."""
    rate: float
    """Questions a second."""
    outcomes: dict[str, int]
    prompt_tokens: float
    completion_tokens: float
    naive_cpu_ms: float
    naive_rate: float
    naive_prompt_tokens: float
    naive_completion_tokens: float
    bare_call_cpu_ms: float
    """Of one streamed chat call of the default client, with the script's prompt."""

    def cpu(self, processes: Sequence[str]) -> float:
        """CPU milliseconds per question of several processes."""
        return sum(self.cpu_ms[name] for name in processes)


@dataclass
class Report:
    """All turns, and where they were measured."""

    seed: int
    questions: int
    traces: bool
    shapes: dict[str, int] = field(default_factory=lambda: asdict(SHAPES))
    machine: dict[str, Any] = field(default_factory=lambda: machine())
    turns: list[Turn] = field(default_factory=list)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser("benchmarks.question", description="What the path of one question costs.")
    parser.add_argument("--questions", type=int, default=600, help="how many, over three rounds (%(default)s)")
    parser.add_argument("--quick", action="store_true", help="120 questions")
    parser.add_argument("--json", action="store_true", help="print one line of JSON instead of the tables")
    parser.add_argument("--seed", type=int, default=1, help="of the order of the questions (%(default)s)")
    parser.add_argument("--no-traces", action="store_true", help="do not export traces, to see what they cost")
    options = parser.parse_args()
    if sys.platform != "linux":
        raise SystemExit("CPU times of other processes are read from /proc, which only Linux has")
    number = 120 if options.quick else options.questions
    if number < ROUNDS:
        parser.error(f"--questions must be at least {ROUNDS}")
    report = Report(options.seed, number, traces=not options.no_traces)
    asyncio.run(measure(report))
    print(json.dumps(asdict(report)) if options.json else text(report))


async def measure(report: Report) -> None:
    """Start everything and fill in `report.turns`."""
    questions = different_questions(report.questions + 2 * WARM_UP, report.seed)
    async with (
        running(report.traces) as stack,
        naive_script(stack.env()) as script,
        ServiceBusClient.from_connection_string(stack.connection_string) as bus,
        Upstream(bus) as app,
    ):
        await ask_all(app, [next(questions) for _ in range(WARM_UP)])
        await answer_all(script, [next(questions) for _ in range(WARM_UP)])
        for number in range(ROUNDS):
            batch = [next(questions) for _ in range(report.questions // ROUNDS)]
            report.turns.append(await turn(stack, app, script, batch, system_first=number % 2 == 0))


async def turn(
    stack: Stack, app: Upstream, script: asyncio.subprocess.Process, batch: list[str], *, system_first: bool
) -> Turn:
    """Give `batch` to the system and to the script, one after the other."""
    naive = None if system_first else await answer_all(script, batch)
    pids = {name: child.pid for name, child in stack.children.items()}
    before, began = {name: cpu_seconds([pid]) for name, pid in pids.items()}, time.perf_counter()
    outcomes = await ask_all(app, batch)
    seconds = time.perf_counter() - began
    cpu = {name: (cpu_seconds([pid]) - before[name]) * 1000 / len(batch) for name, pid in pids.items()}
    naive = naive or await answer_all(script, batch)
    return Turn(
        cpu_ms=cpu,
        rate=len(batch) / seconds,
        outcomes=dict(Counter(outcome["outcome"] for outcome in outcomes)),
        prompt_tokens=fmean(outcome["usage"]["prompt_tokens"] for outcome in outcomes),
        completion_tokens=fmean(outcome["usage"]["completion_tokens"] for outcome in outcomes),
        naive_cpu_ms=naive.cpu_seconds * 1000 / len(batch),
        naive_rate=len(batch) / naive.seconds,
        naive_prompt_tokens=naive.prompt_tokens / len(batch),
        naive_completion_tokens=naive.completion_tokens / len(batch),
        bare_call_cpu_ms=naive.call_cpu_seconds * 1000 / len(batch),
    )


async def ask_all(app: Upstream, questions: Sequence[str]) -> list[dict[str, Any]]:
    """Ask through the queue, as many at once as `SHAPES` says; raises `SystemExit` when one ends otherwise."""
    waiting, outcomes = iter(questions), []

    async def one_after_the_other() -> None:
        for question in waiting:
            outcome = await app.ask(question)
            if outcome["outcome"] not in ("answered", "no_answer") or outcome["cache"] != "miss":
                raise SystemExit(f"{question!r}: {outcome['outcome']} {outcome['code']}, cache {outcome['cache']}")
            outcomes.append(outcome)

    await asyncio.gather(*(one_after_the_other() for _ in range(SHAPES.in_flight)))
    return outcomes


async def answer_all(script: asyncio.subprocess.Process, questions: list[str]) -> Cost:
    """Have the naive script answer the questions."""
    assert script.stdin is not None
    assert script.stdout is not None
    script.stdin.write(json.dumps(questions).encode() + b"\n")
    await script.stdin.drain()
    line = await script.stdout.readline()
    if not line:
        raise SystemExit("the naive script ended; what it said is above")
    return Cost(**json.loads(line))


# -- what is running


@asynccontextmanager
async def running(traces: bool) -> AsyncIterator[Stack]:
    """The whole system on free ports with all documents indexed."""
    with tempfile.TemporaryDirectory() as folder, collector() as url:
        config = Path(folder) / "config"
        shutil.copytree(EXAMPLE, config)
        callers = yaml.safe_load((config / "callers.yaml").read_text("utf-8"))
        # The example's budget is 120,000 tokens a minute, which is fewer than are asked for here.
        callers["tenants"] = {tenant: {"tokens_per_minute": 500_000_000} for tenant in callers["tenants"]}
        (config / "callers.yaml").write_text(yaml.safe_dump(callers), "utf-8")
        settings = {"*": {"OTEL_EXPORTER_OTLP_ENDPOINT": url}} if traces else {}
        async with Stack(Path(folder) / "stack", ports="free", config=config, settings=settings) as stack:
            expected = {path.relative_to(stack.lake).as_posix() for path in stack.lake.rglob("*") if path.is_file()}
            target = read_stack(stack.folder.state)
            assert target is not None
            async with asyncio.timeout(300):
                while not expected <= {document.path for document in await documents(target) if document.finished}:
                    await asyncio.sleep(0.2)
            yield stack


@contextmanager
def collector() -> Iterator[str]:
    """Something that accepts traces over OTLP and forgets them; its URL."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@asynccontextmanager
async def naive_script(environment: dict[str, str]) -> AsyncIterator[asyncio.subprocess.Process]:
    """The naive script, waiting for questions."""
    script = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.question.naive"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, **environment},
    )
    try:
        yield script
    finally:
        if script.returncode is None:
            script.kill()
        await script.wait()


def different_questions(number: int, seed: int) -> Iterator[str]:
    """The example's questions in random order, again and again, each with a number that makes it another one."""
    known = yaml.safe_load((EXAMPLE / "questions.yaml").read_text("utf-8"))["questions"]
    asked = [entry["question"] for entry in known]
    random.Random(seed).shuffle(asked)
    for each in range(number):
        yield f"{asked[each % len(asked)]} ({each})"


# -- what is printed


def text(report: Report) -> str:
    """The report for people, as markdown."""
    turns = report.turns
    rows = [
        "| process | CPU ms per question | lowest … highest |",
        "|---|--:|--:|",
        *(_row(name, [turn.cpu_ms[name] for turn in turns]) for name in (*WORKERS, *STAND_INS)),
        _row("**three workers: gateway, retriever, generator**", [turn.cpu(ON_THE_WAY) for turn in turns]),
        _row("**four workers**", [turn.cpu(WORKERS) for turn in turns]),
        _row("**naive script**", [turn.naive_cpu_ms for turn in turns]),
        _row("**three workers ÷ naive script**", [turn.cpu(ON_THE_WAY) / turn.naive_cpu_ms for turn in turns]),
        _row("**bare streamed call**", [turn.bare_call_cpu_ms for turn in turns]),
        _row("**generator ÷ bare streamed call**", [turn.cpu(["generator"]) / turn.bare_call_cpu_ms for turn in turns]),
    ]
    outcomes = sum((Counter(turn.outcomes) for turn in turns), Counter[str]())
    about = report.machine
    return "\n".join(
        [
            *rows,
            "",
            f"{report.questions} questions in {len(turns)} rounds, seed {report.seed}, traces "
            f"{'exported' if report.traces else 'not exported'}; outcomes {dict(outcomes)}",
            f"rate: system {median(turn.rate for turn in turns):.1f} questions/s, naive script "
            f"{median(turn.naive_rate for turn in turns):.1f}",
            f"shapes: {', '.join(f'{name} {value}' for name, value in report.shapes.items())}; tokens of prompt and "
            f"answer: system {median(turn.prompt_tokens for turn in turns):.0f} and "
            f"{median(turn.completion_tokens for turn in turns):.0f}, naive script "
            f"{median(turn.naive_prompt_tokens for turn in turns):.0f} and "
            f"{median(turn.naive_completion_tokens for turn in turns):.0f}",
            f"machine: {about['cpus']} x {about['cpu']}, 10**7 empty loops {about['loop_s']} s, load average "
            f"{about['load']}, Python {about['python']}",
            "versions: " + ", ".join(f"{name} {number}" for name, number in about["versions"].items()),
        ]
    )


def _row(name: str, values: Sequence[float]) -> str:
    return f"| {name} | {median(values):.2f} | {min(values):.2f} … {max(values):.2f} |"


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    began = time.process_time()
    for _ in range(10**7):
        pass
    loop = time.process_time() - began
    models = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        if line.startswith("model name")
    ]
    return {
        "cpu": models[0] if models else platform.machine(),
        "cpus": os.cpu_count(),
        "loop_s": round(loop, 2),
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in VERSIONS},
    }


if __name__ == "__main__":
    main()
