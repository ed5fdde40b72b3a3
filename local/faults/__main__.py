"""`python -m local.faults --to HOST:PORT`: the proxy as a process of its own."""

import argparse
import asyncio
import json
import random
import signal
import sys
from collections.abc import Sequence

from local.faults.control import Control
from local.faults.fault import Fault, FaultError, read_faults
from local.faults.proxy import Proxy

_LARGEST_PORT = 65535


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until SIGTERM or SIGINT; 1 when it cannot start, with one line saying why."""
    options = _options(arguments)
    try:
        asyncio.run(_serve(options))
    except OSError as error:
        said = error.strerror or str(error)
        sys.stderr.write(f"local.faults: cannot listen ({said}); choose another --port or --control-port\n")
        return 1
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m local.faults", description="A TCP proxy that misbehaves when told to.")
    parser.add_argument("--to", type=_address, required=True, metavar="HOST:PORT", help="where connections go")
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on (%(default)s)")
    parser.add_argument("--port", type=_port, default=0, help="0 takes a free one and says which (%(default)s)")
    parser.add_argument("--control-port", type=_port, default=0, help="HTTP; 0 takes a free one (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the jitter (%(default)s)")
    parser.add_argument("--faults", type=_faults, default=(), metavar="JSON", help="to begin with; see the README")
    return parser.parse_args(arguments)


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


async def _serve(options: argparse.Namespace) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    host, chance = options.host, random.Random(options.seed)  # noqa: S311 - jitter, not a secret
    async with Proxy(*options.to, host=host, port=options.port, chance=chance) as proxy:
        proxy.set(*options.faults)
        control = Control(proxy)
        port = await control.start(host, options.control_port)
        target = ":".join(map(str, options.to))
        sys.stdout.write(f"local.faults: ready, {host}:{proxy.port} to {target}, control on http://{host}:{port}\n")
        sys.stdout.flush()
        await stop.wait()
        await control.stop()


if __name__ == "__main__":
    sys.exit(main())
