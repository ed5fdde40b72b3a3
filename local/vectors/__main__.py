"""`python -m local.vectors --data DIR`: Qdrant's REST subset on this machine, without Docker."""

import argparse
import asyncio
import signal
import socket
import sys
from pathlib import Path

from local.serving import listen, serving, stop_signal
from local.vectors.app import create_app
from local.vectors.collections import Collections
from local.vectors.errors import CannotStart
from local.vectors.ownership import owned

_GRACE = 5  # seconds for requests that are under way at SIGTERM


def main() -> None:
    """Own the data, then the port, then serve until SIGTERM; let go in the opposite order."""
    parser = argparse.ArgumentParser(prog="python -m local.vectors", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="the directory that holds the collections")
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on (%(default)s)")
    parser.add_argument("--port", type=int, default=6333, help="0 picks a free one (%(default)s)")
    options = parser.parse_args()
    # While it starts, it leaves at once; once it serves, it finishes first (`stop_signal`).
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    try:
        with owned(options.data):
            try:
                listener = listen(options.host, options.port)
            except (OSError, OverflowError) as error:
                why = error.strerror if isinstance(error, OSError) else error
                raise CannotStart(
                    f"cannot listen on {options.host}:{options.port} ({why}); choose another --port"
                ) from error
            with listener, Collections(options.data) as collections:
                asyncio.run(_serve(collections, listener, options.data))
    except CannotStart as reason:
        sys.exit(f"vectors: {reason}")


async def _serve(collections: Collections, listener: socket.socket, data: Path) -> None:
    with stop_signal() as stop:
        async with serving(create_app(collections), listener, grace=_GRACE) as url:
            sys.stdout.write(f"vectors: ready on {url}, {len(collections)} collections in {data}\n")
            sys.stdout.flush()
            await stop.wait()


if __name__ == "__main__":
    main()
