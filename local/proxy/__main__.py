"""`python -m local.proxy --to HOST:PORT`: the proxy as a process of its own."""

import argparse
import asyncio
import json
import random
import selectors
import sys
from collections.abc import Sequence

from local.proxy.control import Control
from local.proxy.faults import Fault, FaultError, read_faults
from local.proxy.proxy import Proxy
from local.serving import stop_signal

_LARGEST_PORT = 65535


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until SIGTERM or SIGINT: 0; 1 when it cannot start, with one line that says why."""
    parser = argparse.ArgumentParser("python -m local.proxy", description="A TCP proxy with faults on request.")
    parser.add_argument("--to", type=_address, required=True, metavar="HOST:PORT", help="the target of the connections")
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on (%(default)s)")
    parser.add_argument("--port", type=_port, default=0, help="0 takes a free one and prints it (%(default)s)")
    parser.add_argument("--control-port", type=_port, default=0, help="for HTTP; 0 takes a free one (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="the seed of the jitter (%(default)s)")
    parser.add_argument(
        "--faults", type=_faults, default=(), metavar="JSON", help="the first faults; see local/proxy/README.md"
    )
    options = parser.parse_args(arguments)
    try:
        # epoll waits for whole milliseconds, which would delay each direction; select does not, up to 500 connections.
        with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selectors.SelectSelector())) as runner:
            runner.run(_serve(options))
    except OSError as error:
        why = error.strerror or str(error)
        sys.stderr.write(f"local.proxy: cannot listen ({why}); choose another --port or --control-port\n")
        return 1
    return 0


async def _serve(options: argparse.Namespace) -> None:
    host, chance = options.host, random.Random(options.seed)  # noqa: S311 - jitter, not a secret
    with stop_signal() as stop:
        async with Proxy(*options.to, host=host, port=options.port, chance=chance) as proxy:
            proxy.set(*options.faults)
            control = Control(proxy)
            port = await control.start(host, options.control_port)
            target = ":".join(map(str, options.to))
            sys.stdout.write(f"local.proxy: ready, {host}:{proxy.port} to {target}, control on http://{host}:{port}\n")
            sys.stdout.flush()
            await stop.wait()
            await control.stop()


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not _port(port):
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT")
    return host.strip("[]"), _port(port)


def _port(text: str) -> int:
    if text.isdecimal() and int(text) <= _LARGEST_PORT:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a port; 0 to {_LARGEST_PORT} are")


def _faults(text: str) -> tuple[Fault, ...]:
    try:
        return read_faults(json.loads(text))
    except (FaultError, ValueError) as wrong:
        raise argparse.ArgumentTypeError(str(wrong)) from wrong


if __name__ == "__main__":
    sys.exit(main())
