"""`python -m local.lake`: watch until told to stop."""

import argparse
import asyncio
import logging
import signal
import sys
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

from local.lake.events import Container, Schema
from local.lake.health import health
from local.lake.post import Post
from local.lake.state import Unusable
from local.lake.watch import Watch
from local.serving import listen, serving

_log = logging.getLogger("local.lake")


def main(argv: list[str] | None = None) -> int:
    """Watch the folder. 1 when that is impossible, with one line saying why."""
    options = _options(argv)
    try:
        asyncio.run(_main(options))
    except (OSError, OverflowError, ValueError, Unusable) as error:
        _log.error(_advice(error, options))
        return 1
    return 0


def _options(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m local.lake", description="A folder as a data lake that tells.")
    parser.add_argument("--root", type=Path, required=True, help="the folder that is the container")
    parser.add_argument("--container", required=True)
    parser.add_argument("--connection-string", required=True, help="of the Service Bus namespace")
    parser.add_argument("--queue", default="blob-events")
    parser.add_argument("--state", type=Path, required=True, help="where to remember what was announced")
    parser.add_argument(
        "--schema", type=Schema, choices=list(Schema), default=Schema.EVENT_GRID, metavar="eventgrid|cloudevents"
    )
    parser.add_argument("--interval", type=float, default=0.25, help="seconds between looks (%(default)s)")
    parser.add_argument("--account", default="devlake", help="the storage account to claim (%(default)s)")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--health-port", type=int, help="serve /healthz here; 0 takes a free one and says which")
    return parser.parse_args(argv)


async def _main(options: argparse.Namespace) -> None:
    if not options.root.is_dir():
        raise ValueError(f"--root {options.root} is not a folder; create it or name another")
    container = Container(options.container, options.account, options.schema)
    post = Post(options.connection_string, options.queue)
    watch = Watch(options.root.resolve(), container, options.state.resolve(), post.send, interval=options.interval)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(post.close)
        if options.health_port is not None:
            listener = listen(options.host, options.health_port)
            url = await stack.enter_async_context(serving(health(lambda: _page(watch, post)), listener))
            _log.info("health on %s/healthz", url)
        _log.info("watching %s as container %s", watch.root, container.name)
        watching = asyncio.create_task(watch.run())
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, watching.cancel)
        with suppress(asyncio.CancelledError):
            await watching
        _log.info("stopped")


def _page(watch: Watch, post: Post) -> tuple[bool, dict[str, Any]]:
    trouble = watch.trouble or post.trouble
    return watch.ready, watch.counts() | ({"trouble": trouble} if trouble else {})


def _advice(error: Exception, options: argparse.Namespace) -> str:
    if isinstance(error, OSError | OverflowError) and not getattr(error, "filename", None):
        return f"cannot listen on {options.host}:{options.health_port} ({error.args[-1]}); choose another --health-port"
    return str(error)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
    logging.getLogger("azure").setLevel(logging.CRITICAL)  # it logs every lost connection; we say it once
    sys.exit(main())
