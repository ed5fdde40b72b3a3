"""`python -m tests.crash_points`: kill each worker at each of its effects, then the checker.

0: nothing was lost, nothing told twice; 1: something was, and it is printed.
"""

import argparse
import logging
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

from local.stack import StackError
from local.stack.signals import run
from tests.crash_points.run import Crashes, Result, sample
from tests.crash_points.system import SERVICES, running

_SHOWN = 40


def main(argv: list[str] | None = None) -> int:
    """Run once; says how it went."""
    options = _options(argv)
    logging.getLogger("azure").setLevel(logging.CRITICAL)
    folder = Path(tempfile.mkdtemp(prefix="ragbus-crash-points-"))
    _say(f"seed {options.seed}; logs in {folder / 'stack' / 'logs'}")
    try:
        result = run(_run(options, folder))
    except StackError as error:
        _say(str(error))
        return 1
    if result is None:
        _say("stopped before the end; nothing was judged")
        return 1
    _say(
        f"{len(result.crashed)} of {result.points} points died at, {len(result.unreached)} not reached, "
        f"{result.extra_calls} model calls beyond one per question, {result.seconds:.0f} s, seed {options.seed}"
    )
    _say(", ".join(f"{outcome} {count}" for outcome, count in result.outcomes.items()))
    for each in result.unreached:
        _say(f"not reached: {each}")
    for violation in result.violations[:_SHOWN]:
        _say(f"  - {violation}")
    if result.violations:
        _say(f"{len(result.violations)} violations; logs in {folder}")
        return 1
    _say("clean")
    if not options.keep:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


async def _run(options: argparse.Namespace, folder: Path) -> Result:
    result = Result()
    began = time.monotonic()
    async with running(folder) as system:
        crashes = Crashes(system, _say)
        _say(f"ready after {time.monotonic() - began:.0f} s")
        found = await crashes.discover(options.scenario)
        planned = [each for each in found if not options.only or each.point.effect.service in options.only]
        result.points = len(planned)
        _say(f"{len(planned)} points after {time.monotonic() - began:.0f} s")
        if options.list:
            sys.stdout.writelines(f"{each}\n" for each in planned)
        else:
            drawn = sample(planned, options.points, random.Random(options.seed))
            await system.stack.during(crashes.crash(drawn, result))
            if not options.scenario or "breaker" in options.scenario:
                await system.stack.during(crashes.crash_at_the_breaker(result))
        await crashes.settle()
        crashes.judge(result)
    result.seconds = time.monotonic() - began
    return result


def _say(line: str) -> None:
    sys.stdout.write(f"crash-points: {line}\n")
    sys.stdout.flush()


def _options(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m tests.crash_points", description="Kill workers at their effects.")
    parser.add_argument("--points", type=int, help="how many, drawn; left out: all")
    parser.add_argument(
        "--only", choices=SERVICES, action="append", default=[], help="of this service; may be repeated"
    )
    parser.add_argument("--scenario", action="append", default=[], help="of this scenario; may be repeated")
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000), help="left out: a drawn one")
    parser.add_argument("--list", action="store_true", help="list the points and kill no worker")
    parser.add_argument("--keep", action="store_true", help="keep the folder of a clean run too")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
