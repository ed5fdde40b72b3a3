"""`python -m local.llm`: serve until told to stop."""

import argparse
import logging
import signal
import socket
import sys
from pathlib import Path

import uvicorn

from local.llm import deployments
from local.llm.app import Model, create_app
from local.loopback import guarded

_log = logging.getLogger("local.llm")
_FINISH = 1  # seconds for answers under way; a call that hangs on request is not worth more


def main(argv: list[str] | None = None) -> int:
    """Bind, say where, serve. 1 when that is impossible, with one line saying why."""
    options = _options(argv)
    try:
        known = deployments.load(options.config) if options.config else deployments.Deployments()
        listener = _bind(options.host, options.port)
    except (OSError, OverflowError, ValueError) as error:
        _log.error(_advice(error, options))
        return 1
    _log.info("listening on http://%s:%d", *listener.getsockname()[:2])
    _serve(Model(known), listener)
    return 0


def _options(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m local.llm", description="An OpenAI-shaped model for the laptop.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8090, help="0 takes a free one and says which")
    parser.add_argument("--config", type=Path, help="YAML or JSON with deployments; without it any name works")
    return parser.parse_args(argv)


def _bind(host: str, port: int) -> socket.socket:
    # asyncio turns Nagle's algorithm off only where the protocol is named; without it every answer waits 40 ms.
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(512)
    except (OSError, OverflowError):
        listener.close()
        raise
    return listener


def _advice(error: Exception, options: argparse.Namespace) -> str:
    if isinstance(error, ValueError) or getattr(error, "filename", None):
        return f"cannot use {options.config}: {error}"
    return f"cannot listen on {options.host}:{options.port} ({error.args[-1]}); free it or choose another with --port"


def _serve(model: Model, listener: socket.socket) -> None:
    # uvicorn stops at these signals and then raises them again for whoever handled them before: that is us, and by
    # then there is nothing left to do. Without this SIGTERM would end the process with -15 instead of 0.
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: None)
    app = guarded(create_app(model), listener.getsockname()[0])
    config = uvicorn.Config(
        app, log_config=None, log_level="warning", access_log=False, timeout_graceful_shutdown=_FINISH
    )
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")  # before wordllama does it
    sys.exit(main())
