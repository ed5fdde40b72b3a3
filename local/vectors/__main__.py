"""`python -m local.vectors --data DIR`: Qdrant's REST subset on this machine, without Docker."""

import argparse
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn

from local.loopback import guarded
from local.vectors.app import create_app
from local.vectors.collections import Collections
from local.vectors.errors import CannotStart
from local.vectors.ownership import owned

_GRACE = 5  # seconds for requests that are under way at SIGTERM


def main() -> None:
    """Own the data, then the port, then serve until SIGTERM; let go in the opposite order."""
    options = _options()
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, _stop)
    try:
        with (
            owned(options.data),
            _listening(options.host, options.port) as listener,
            Collections(options.data) as collections,
        ):
            _serve(collections, listener, options.data)
    except CannotStart as reason:
        sys.exit(f"vectors: {reason}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m local.vectors", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="the directory that holds the collections")
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on (%(default)s)")
    parser.add_argument("--port", type=int, default=6333, help="0 picks a free one (%(default)s)")
    return parser.parse_args()


@contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Named TCP, or asyncio leaves Nagle's algorithm on and answers wait 40 ms for an acknowledgement.
    with socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
            listener.listen(1024)
        except (OSError, OverflowError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            raise CannotStart(f"cannot listen on {host}:{port} ({why}); choose another --port") from error
        yield listener


def _serve(collections: Collections, listener: socket.socket, data: Path) -> None:
    host, port = listener.getsockname()[:2]
    app = guarded(create_app(collections), host)
    config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=_GRACE)
    ready = f"vectors: ready on http://{host}:{port}, {len(collections)} collections in {data}\n"
    _Server(config, ready).run(sockets=[listener])


class _Server(uvicorn.Server):
    """Says when it is ready, not before it can be stopped gracefully."""

    def __init__(self, config: uvicorn.Config, ready: str) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        sys.stdout.write(self._ready)
        sys.stdout.flush()


def _stop(*_: object) -> None:
    """Leave at once while starting; uvicorn stops gracefully first, then repeats the signal to us."""
    sys.exit(0)


if __name__ == "__main__":
    main()
