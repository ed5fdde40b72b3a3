"""`python -m local.stack`: start everything and keep it running. People use `ragbus up`, which says more."""

import argparse
import sys
from pathlib import Path

from local.stack.errors import StackError
from local.stack.recipe import SERVICES
from local.stack.signals import run
from local.stack.stack import Stack, from_environment


def main(argv: list[str] | None = None) -> int:
    """Run until stopped: 0; 1 when it could not start or a part died, with one message that says why."""
    parser = argparse.ArgumentParser("python -m local.stack", description="The cloud on a laptop.")
    parser.add_argument("--folder", type=Path, default=Path(".ragbus"), help="state, logs and the lake (%(default)s)")
    parser.add_argument("--free-ports", action="store_true", help="use any free ports instead of the usual ones")
    parser.add_argument("--reset", action="store_true", help="delete data, logs and edited documents first")
    parser.add_argument("--workers", nargs="*", choices=SERVICES, default=SERVICES, help="the services to run (all)")
    parser.add_argument("--no-lake", action="store_true", help="do not watch the documents")
    try:
        run(_keep(parser.parse_args(argv)))
    except StackError as error:
        sys.stderr.write(f"stack: {error}\n")
        return 1
    return 0


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
