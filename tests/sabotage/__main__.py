"""`python -m tests.sabotage`: plants faults, one at a time, and wants a test to turn red for each.

0: every plant was noticed; 1: some were not, or could not be planted; each is named.
"""

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from local.stack.signals import run
from tests.sabotage.plant import Plant
from tests.sabotage.plants import PLANTS
from tests.sabotage.tree import Tree, WrongTree
from tests.sabotage.trial import Fate, Ran, run_tests

_SHOWN = 30


@dataclass(frozen=True, slots=True)
class Verdict:
    """On one plant."""

    plant: Plant
    fate: Fate
    detail: str
    why: str
    seconds: float


def main(argv: list[str] | None = None) -> int:
    """Try the plants that were asked for; says how it went."""
    options = _options(argv)
    plants = [plant for plant in PLANTS if not options.only or plant.name in options.only]
    with tempfile.TemporaryDirectory(prefix="ragbus-sabotage-") as folder:
        try:
            verdicts = run(_try_all(plants, Path(folder).resolve(), min(options.jobs, len(plants)), why=options.why))
        except WrongTree as wrong:
            _say(f"sabotage: {wrong}")
            return 1
    if verdicts is None:
        _say("sabotage: stopped before the end")
        return 1
    return _judge(verdicts) if verdicts else 1


async def _try_all(plants: Sequence[Plant], folder: Path, jobs: int, *, why: bool) -> list[Verdict]:
    """No verdicts when a plant has lost its place, or a test is red before anything is planted."""
    first = await Tree.of_the_project(folder / "1")
    if moved := [str(gone) for plant in plants if (gone := first.moved(plant))]:
        _say("\n".join(f"sabotage: {gone}" for gone in moved))
        return []
    started = time.monotonic()
    tests = sorted({test for plant in plants for test in plant.red})
    _say(f"sabotage: {len(plants)} plants; their {len(tests)} tests, with nothing planted")
    clean = await run_tests(first.folder, first.environment, tests, jobs=jobs, report=folder / "clean.xml")
    if clean.status:
        _say(f"sabotage: red (or not there) before anything was planted, which proves nothing:\n{_tail(clean)}")
        return []
    _say(f"sabotage: green after {time.monotonic() - started:.0f} s")
    trees = [first, *(first.twin(folder / str(number)) for number in range(2, jobs + 1))]
    waiting, verdicts = list(reversed(plants)), list[Verdict]()

    async def lane(tree: Tree) -> None:
        while waiting:
            verdict = await _try(waiting.pop(), tree)
            verdicts.append(verdict)
            _say(_row(verdict, why=why))

    async with asyncio.TaskGroup() as lanes:
        for tree in trees:
            lanes.create_task(lane(tree))
    return verdicts


async def _try(plant: Plant, tree: Tree) -> Verdict:
    started = time.monotonic()
    # No bytecode of planted code may be left for the next.
    environment = {**tree.environment, "PYTHONDONTWRITEBYTECODE": "1"}
    with tree.planted(plant):
        ran = await run_tests(tree.folder, environment, plant.red, report=tree.folder.with_suffix(".xml"))
    detail, why = (ran.proof.test, ran.proof.why) if ran.proof else ("", "")
    if ran.fate is Fate.BROKEN:
        detail = f"no test came to a judgement:\n{_tail(ran)}"
    return Verdict(plant, ran.fate, detail, why, time.monotonic() - started)


def _judge(verdicts: Sequence[Verdict]) -> int:
    unnoticed = [verdict for verdict in verdicts if verdict.fate is not Fate.RED]
    for verdict in unnoticed:
        _say(f"sabotage: {verdict.fate.value}: {verdict.plant.name}: {verdict.plant.breaks}")
    if unnoticed:
        return 1
    _say(f"sabotage: all {len(verdicts)} plants were noticed")
    return 0


def _row(verdict: Verdict, *, why: bool) -> str:
    detail = f"{verdict.detail}\n{'':14}{verdict.why[:100]}" if why and verdict.why else verdict.detail
    return f"{verdict.seconds:5.1f} s  {verdict.fate.value:8} {verdict.plant.name:40} {detail}"


def _tail(ran: Ran) -> str:
    return "\n".join(ran.output.splitlines()[-_SHOWN:])


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _options(argv: list[str] | None) -> argparse.Namespace:
    names = [plant.name for plant in PLANTS]
    parser = argparse.ArgumentParser(
        "python -m tests.sabotage", description="Does every planted fault turn a test red?"
    )
    parser.add_argument("--only", action="append", metavar="NAME", choices=names, help="this plant; may be repeated")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="plants at once (%(default)s)")
    parser.add_argument("--why", action="store_true", help="say why each test failed")
    parser.add_argument("--list", action="store_true", help="say what there is, and plant nothing")
    options = parser.parse_args(argv)
    if options.jobs < 1:
        parser.error("--jobs must be above 0")
    if options.list:
        width = max(map(len, names))
        parser.exit(0, "".join(f"{plant.name:{width}}  {plant.breaks}\n" for plant in PLANTS))
    return options


if __name__ == "__main__":
    sys.exit(main())
