"""Throws bytes at a connection and looks whether anything but a clean close comes of it.

    python -m fuzz --runs 100000            a plain random loop, reproducible
    python -m fuzz --runs 1 --seed 4711     one of its runs again

Where `atheris` is installed (`pip install atheris`), coverage chooses what is said, until something
is found or it is stopped; what follows `--` goes to libFuzzer:

    python -m fuzz --guided -- -max_total_time=600 corpus/
"""

import argparse
import importlib
import sys
import time
from collections.abc import Sequence
from random import Random

from fuzz.application import SMALL, Application
from fuzz.conversation import chunks, conversation, spoiled
from servicebus_local.amqp.connection import Connection


def run(random: Random) -> int:
    """Have one spoiled conversation; return how many bytes came back."""
    application = Application(Connection(limits=SMALL))
    data = spoiled(random, conversation(random, steps=random.randrange(60)))
    application.feed(chunks(random, data))
    return len(application.leave())


class Guide(Random):
    """Makes the choices some bytes make; when they are used up, always the first."""

    def __init__(self, data: bytes) -> None:
        super().__init__(0)
        self._data = data
        self._at = 0

    def getrandbits(self, k: int, /) -> int:
        """Take bits from the bytes."""
        size = (k + 7) // 8
        taken = self._data[self._at : self._at + size].ljust(size, b"\0")
        self._at += size
        return int.from_bytes(taken, "big") >> (8 * size - k)

    def random(self) -> float:
        """Take one byte: no choice here is finer."""
        return self.getrandbits(8) / 256


def run_guided(data: bytes) -> None:
    """Have the conversation some bytes choose; or, if the first of them is odd, feed them as they are."""
    if data[:1] and data[0] % 2:
        application = Application(Connection(limits=SMALL))
        application.feed(chunks(Guide(data[:8]), data[1:]))
        application.leave()
    else:
        run(Guide(data[1:]))


def main(arguments: Sequence[str]) -> int:
    """Run as often as asked; a failure ends it with the seed that repeats it."""
    parser = argparse.ArgumentParser("fuzz", description="Throw bytes at a connection.")
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
    atheris.Setup([sys.argv[0], *rest], run_guided)
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
