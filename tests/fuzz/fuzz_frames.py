"""Throws bytes at a connection and looks whether anything but a clean close comes of it.

    python -m tests.fuzz.fuzz_frames --runs 100000            a plain random loop, reproducible
    python -m tests.fuzz.fuzz_frames --runs 1 --seed 4711     one of its runs again

Where `atheris` is installed (`pip install atheris`), the same runs are guided by coverage until
something is found or it is stopped; what follows `--` goes to libFuzzer:

    python -m tests.fuzz.fuzz_frames --guided -- -max_total_time=600 corpus/
"""

import argparse
import importlib
import sys
import time
from collections.abc import Sequence
from random import Random

from local.broker.amqp.connection import Connection
from tests.fuzz.application import SMALL, Application
from tests.fuzz.conversation import chunks, conversation, spoiled


def run(random: Random) -> int:
    """Have one spoiled conversation; return how many bytes came back."""
    application = Application(Connection(limits=SMALL))
    data = spoiled(random, conversation(random, steps=random.randrange(60)))
    application.feed(chunks(random, data))
    return len(application.leave())


def run_raw(data: bytes) -> None:
    """Feed bytes as they are: the first tells how the rest is cut."""
    application = Application(Connection(limits=SMALL))
    application.feed(chunks(Random(data[:1]), data[1:]))
    application.leave()


def main(arguments: Sequence[str]) -> int:
    """Run as often as asked; a failure ends it with the seed that repeats it."""
    parser = argparse.ArgumentParser("tests.fuzz.fuzz_frames", description="Throw bytes at a connection.")
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0, help="of the first run; each one more is the next")
    parser.add_argument("--guided", action="store_true", help="let atheris choose the bytes")
    parser.add_argument("rest", nargs="*", help="for libFuzzer")
    options = parser.parse_args(arguments)
    if options.guided:
        return _guided(options.rest)
    began, answered = time.monotonic(), 0
    for seed in range(options.seed, options.seed + options.runs):
        try:
            answered += run(Random(seed)) > 0
        except Exception:
            sys.stderr.write(f"found something: --runs 1 --seed {seed}\n")
            raise
    took = time.monotonic() - began
    sys.stdout.write(f"{options.runs} conversations, {answered} of them answered, in {took:.0f} s: nothing found\n")
    return 0


def _guided(rest: list[str]) -> int:
    try:
        atheris = importlib.import_module("atheris")
    except ImportError:
        sys.stderr.write("atheris is not installed: run without --guided\n")
        return 2
    atheris.instrument_all()
    atheris.Setup([sys.argv[0], *rest], run_raw)
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
