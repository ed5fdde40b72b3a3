"""`python -m local.llm`: serve until told to stop."""

import argparse
import asyncio
import logging
import socket
import sys
from pathlib import Path

from local.llm import deployments
from local.llm.app import Model, create_app
from local.serving import listen, serving, told_to_stop

_log = logging.getLogger("local.llm")


def main(argv: list[str] | None = None) -> int:
    """Bind, print where, serve. 1 when that is impossible, with one line saying why."""
    options = _options(argv)
    try:
        known = deployments.load(options.config) if options.config else deployments.Deployments()
        listener = listen(options.host, options.port)
    except (OSError, OverflowError, ValueError) as error:
        _log.error(_advice(error, options))
        return 1
    asyncio.run(_serve(Model(known), listener))
    return 0


async def _serve(model: Model, listener: socket.socket) -> None:
    # Calls under way have the second that `serving` gives; one that hangs on request is not worth more.
    with told_to_stop() as stop:
        async with serving(create_app(model), listener) as url:
            _log.info("listening on %s", url)
            await stop.wait()


def _options(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m local.llm", description="An OpenAI-shaped model for the laptop.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8090, help="0 takes a free one and says which")
    parser.add_argument("--config", type=Path, help="YAML or JSON with deployments; without it any name works")
    return parser.parse_args(argv)


def _advice(error: Exception, options: argparse.Namespace) -> str:
    if isinstance(error, ValueError) or getattr(error, "filename", None):
        return f"cannot use {options.config}: {error}"
    return f"cannot listen on {options.host}:{options.port} ({error.args[-1]}); free it or choose another with --port"


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")  # before wordllama does it
    sys.exit(main())
