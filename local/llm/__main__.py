"""`python -m local.llm`: the model as a process of its own."""

import argparse
import asyncio
import logging
import socket
import sys
from pathlib import Path

from local.llm import deployments
from local.llm.app import Model, create_app
from local.llm.faults import Faults
from local.llm.misbehaviours import MISBEHAVIOURS
from local.serving import listen, serving, stop_signal

_log = logging.getLogger("local.llm")


def main(argv: list[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT: 0; 1 when it cannot start, with one line that says why."""
    parser = argparse.ArgumentParser("python -m local.llm", description="An OpenAI-compatible model for the laptop.")
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on (%(default)s)")
    parser.add_argument("--port", type=int, default=8090, help="0 takes a free one and prints it (%(default)s)")
    parser.add_argument(
        "--config", type=Path, help="YAML or JSON with deployments and faults; without it any name works"
    )
    parser.add_argument("--list-faults", action="store_true", help="print the names of the faults and exit")
    options = parser.parse_args(argv)
    if options.list_faults:
        sys.stdout.write("".join(f"{name}\n" for name in MISBEHAVIOURS))
        return 0
    try:
        known, rules = deployments.load(options.config) if options.config else (deployments.Deployments(), [])
        listener = listen(options.host, options.port)
    except (OSError, OverflowError, ValueError) as error:
        if isinstance(error, ValueError) or getattr(error, "filename", None):
            _log.error("cannot use %s: %s", options.config, error)
        else:
            where, why = f"{options.host}:{options.port}", error.args[-1]
            _log.error("cannot listen on %s (%s); free it or choose another with --port", where, why)
        return 1
    asyncio.run(_serve(Model(known, faults=Faults(rules)), listener))
    return 0


async def _serve(model: Model, listener: socket.socket) -> None:
    # Calls under way have the second that `serving` gives; one that hangs on request is not worth more.
    with stop_signal() as stop:
        async with serving(create_app(model), listener) as url:
            _log.info("listening on %s", url)
            await stop.wait()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")  # before wordllama does it
    sys.exit(main())
