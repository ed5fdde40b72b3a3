"""`python -m local.stack`: start everything and keep it running. People use `ragbus up`, which says more."""

import argparse
import sys
from pathlib import Path

from local.stack.errors import StackError
from local.stack.recipe import SERVICES
from local.stack.signals import run
from local.stack.stack import Stack, from_environment


def main(argv: list[str] | None = None) -> int:
    """0: told to stop; 1: it could not start, or a part died, with one message why."""
    try:
        run(_keep(_options(argv)))
    except StackError as error:
        sys.stderr.write(f"stack: {error}\n")
        return 1
    return 0


def _options(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m local.stack", description="The cloud on a laptop.")
    parser.add_argument("--folder", type=Path, default=Path(".ragbus"), help="state, logs and the lake (%(default)s)")
    parser.add_argument("--free-ports", action="store_true", help="take any free ports instead of the usual ones")
    parser.add_argument("--reset", action="store_true", help="forget data, logs and edited documents first")
    parser.add_argument("--workers", nargs="*", choices=SERVICES, default=SERVICES, help="which of our services to run")
    parser.add_argument("--no-lake", action="store_true", help="do not watch the documents")
    return parser.parse_args(argv)


async def _keep(options: argparse.Namespace) -> None:
    stack = Stack(
        options.folder,
        ports="free" if options.free_ports else "usual",
        workers={service: int(service in options.workers) for service in SERVICES},
        lake=not options.no_lake,
        instead=from_environment(),
        reset=options.reset,
        progress=lambda name, seconds: _say(f"{name} ready after {seconds:.1f} s"),
    )
    async with stack:
        _say(f"everything is ready; {stack.folder.state} says where")
        await stack.wait()


def _say(line: str) -> None:
    sys.stdout.write(f"stack: {line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
