"""`python -m tests.chaos`: requests through the real workers while plugs are pulled, then the checker.

0: the history is clean; 1: it is not, and what is wrong with it is printed, with the folder of the logs.
"""

import argparse
import logging
import random
import shutil
import sys
import tempfile
from pathlib import Path

from local.stack import StackError
from local.stack.signals import run
from tests.chaos.report import Report, table
from tests.chaos.run import Chaos, Load

_QUICK = 100
_SHOWN = 40


def main(argv: list[str] | None = None) -> int:
    """Run once; says how it went."""
    options = _options(argv)
    requests = _QUICK if options.quick else options.requests
    kills = max(8, requests // 10) if options.kills is None else options.kills
    load = Load(requests, kills, options.seed, options.rate)
    logging.getLogger("azure").setLevel(logging.CRITICAL)  # it tells of every connection that the killed broker cut
    folder = Path(tempfile.mkdtemp(prefix="ragbus-chaos-"))
    _say(f"seed {load.seed}, {load.requests} requests, {load.kills} kills; logs in {folder / 'stack' / 'logs'}")
    try:
        report = run(Chaos(load, folder, _say).run())
    except StackError as error:
        _say(str(error))
        return 1
    if report is None:
        _say("stopped before the end; nothing was judged")
        return 1
    return _judge(report, folder, keep=options.keep)


def _judge(report: Report, folder: Path, *, keep: bool) -> int:
    sys.stdout.write(f"{table(report.rows())}\n")
    violations = report.violations()
    if not violations:
        _say("clean: every request has its one outcome")
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)
        return 0
    _say(f"{len(violations)} violations; logs in {folder / 'stack' / 'logs'}")
    sys.stdout.writelines(f"  - {violation}\n" for violation in violations[:_SHOWN])
    return 1


def _say(line: str) -> None:
    sys.stdout.write(f"chaos: {line}\n")
    sys.stdout.flush()


def _options(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m tests.chaos", description="Pull plugs, and check what came of it.")
    parser.add_argument("--requests", type=int, default=1000, help="how many (%(default)s); one in ten is sent twice")
    parser.add_argument("--kills", type=int, help="kill -9 of workers that are at work; left out: one per ten requests")
    parser.add_argument("--rate", type=float, default=12.5, help="requests a second (%(default)s)")
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000), help="left out: a drawn one")
    parser.add_argument("--quick", action="store_true", help=f"{_QUICK} requests, for CI")
    parser.add_argument("--keep", action="store_true", help="keep the folder of a clean run too")
    options = parser.parse_args(argv)
    if options.requests < 1 or options.rate <= 0 or (options.kills is not None and options.kills < 1):
        parser.error("--requests, --kills and --rate must be above 0")
    return options


if __name__ == "__main__":
    sys.exit(main())
