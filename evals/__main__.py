"""Ask a folder of questions and say how good the answers are: `python -m evals FOLDER`.

Starts the whole system on this machine, indexes the folder's documents, asks every question through the queue, and
prints what was found, answered, refused and cited. `--save` keeps one line of JSON per question, for what went wrong.
"""

import argparse
import asyncio
import json
import logging
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import structlog

from evals import score
from evals.questions import Folder, read
from evals.score import Result
from evals.system import running
from local.stack import StackError
from local.stack.stack import EXAMPLE


def main() -> int:
    """Ask and print: 0; 1 when the folder cannot be used, with a sentence that says why."""
    parser = argparse.ArgumentParser("python -m evals", description="How good are the answers to a folder's questions?")
    parser.add_argument("folder", type=Path, help="holds questions.yaml and the documents")
    parser.add_argument("--config", type=Path, default=EXAMPLE, help="callers, use cases, models (%(default)s)")
    parser.add_argument("--unreadable", action="append", default=[], metavar="KIND", help="refusing this kind is right")
    parser.add_argument("--save", type=Path, help="write one line of JSON per question to this file")
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    try:
        folder = read(options.folder, unreadable=frozenset(options.unreadable))
        results, seconds = asyncio.run(_ask(options.config, folder))
    except (OSError, ValueError, StackError) as error:
        print(f"evals: {error}", file=sys.stderr)
        return 1
    if options.save:
        options.save.write_text("".join(f"{_line(result)}\n" for result in results), "utf-8")
    print(_report(results, seconds))
    return 0


async def _ask(config: Path, folder: Folder) -> tuple[list[Result], float]:
    """All results, and the seconds that asking took."""
    async with running(config, folder.documents) as system:
        began = time.monotonic()
        return await system.answer(folder.questions), time.monotonic() - began


def _report(results: Sequence[Result], seconds: float) -> str:
    answerable = sum(result.question.answerable for result in results)
    lines = [f"{answerable} questions with an answer, {len(results) - answerable} without, in {seconds:.0f} s"]
    lines += [f"{name:<29} {share}" for name, share in score.figures(results).items()]
    kinds = score.by_kind(results)
    if set(kinds) != {""}:
        lines += ["right, by kind:", *(f"  {kind:<27} {share}" for kind, share in kinds.items())]
    return "\n".join(lines)


def _line(result: Result) -> str:
    kept = asdict(result) | {"right": result.right}
    kept["cited"], kept["question"]["documents"] = sorted(result.cited), sorted(result.question.documents)
    return json.dumps(kept, ensure_ascii=False)


if __name__ == "__main__":
    sys.exit(main())
