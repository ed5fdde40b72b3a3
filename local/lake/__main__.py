"""`python -m local.lake`: the lake as a process of its own."""

import argparse
import asyncio
import logging
import signal
import sys
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

from local.lake.checkpoint import Unusable
from local.lake.events import Container, Schema
from local.lake.health import health
from local.lake.sender import EventSender
from local.lake.watch import Watch
from local.serving import listen, serving

_log = logging.getLogger("local.lake")


def main(argv: list[str] | None = None) -> int:
    """Watch the folder until SIGTERM or SIGINT: 0; 1 when that is impossible, with one line that says why."""
    parser = argparse.ArgumentParser("python -m local.lake", description="A folder that sends Blob Storage's events.")
    parser.add_argument("--root", type=Path, required=True, help="the folder that is the container")
    parser.add_argument("--container", required=True, help="the container's name in the events")
    parser.add_argument("--connection-string", required=True, help="of the Service Bus namespace")
    parser.add_argument("--queue", default="blob-events", help="the queue for the events (%(default)s)")
    parser.add_argument("--checkpoint", type=Path, required=True, help="the file that records what was announced")
    parser.add_argument(
        "--schema",
        type=Schema,
        choices=list(Schema),
        default=Schema.EVENT_GRID,
        metavar="eventgrid|cloudevents",
        help="the format of the events (eventgrid)",
    )
    parser.add_argument("--interval", type=float, default=0.25, help="seconds between scans (%(default)s)")
    parser.add_argument("--account", default="devlake", help="the storage account's name in the events (%(default)s)")
    parser.add_argument("--host", default="127.0.0.1", help="the address of the health page (%(default)s)")
    parser.add_argument("--health-port", type=int, help="serve /healthz here; 0 takes a free port and prints it")
    options = parser.parse_args(argv)
    try:
        asyncio.run(_watch(options))
    except (OSError, OverflowError, ValueError, Unusable) as error:
        if isinstance(error, OSError | OverflowError) and not getattr(error, "filename", None):
            where, why = f"{options.host}:{options.health_port}", error.args[-1]
            _log.error("cannot listen on %s (%s); choose another --health-port", where, why)
        else:
            _log.error("%s", error)
        return 1
    return 0


async def _watch(options: argparse.Namespace) -> None:
    if not options.root.is_dir():
        raise ValueError(f"--root {options.root} is not a folder; create it or name another")
    container = Container(options.container, options.account, options.schema)
    try:
        sender = EventSender(options.connection_string, options.queue)
    except ValueError as wrong:
        raise ValueError(f"--connection-string: {wrong}") from wrong
    kept_in = options.checkpoint.resolve()
    watch = Watch(options.root.resolve(), container, kept_in, sender.send, interval=options.interval)

    def page() -> tuple[bool, dict[str, Any]]:
        trouble = watch.trouble or sender.trouble
        return watch.ready, watch.counts() | ({"trouble": trouble} if trouble else {})

    async with AsyncExitStack() as stack:
        stack.push_async_callback(sender.close)
        if options.health_port is not None:
            listener = listen(options.host, options.health_port)
            url = await stack.enter_async_context(serving(health(page), listener))
            _log.info("health on %s/healthz", url)
        _log.info("watching %s as container %s", watch.root, container.name)
        watching = asyncio.create_task(watch.run())
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, watching.cancel)
        with suppress(asyncio.CancelledError):
            await watching
        _log.info("stopped")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
    logging.getLogger("azure").setLevel(logging.CRITICAL)  # it logs every lost connection; we say it once
    sys.exit(main())
