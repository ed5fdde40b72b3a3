"""`python -m local.broker --config Config.json`: the broker as a process of its own."""

import argparse
import asyncio
import errno
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from local.broker.bus.queue import QueueOptions
from local.broker.config import ConfigError, load
from local.broker.server import Broker

DEFAULT_PORT: Final = 5672
DEFAULT_ADMIN_PORT: Final = 5300


class Unusable(Exception):
    """The broker cannot start; one line says why and what to do."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until a signal comes; return the exit status."""
    options = _parser().parse_args(arguments)
    try:
        asyncio.run(_serve(load(options.config), options))
    except (ConfigError, Unusable) as error:
        sys.stderr.write(f"local.broker: {error}\n")
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("local.broker", description="A local Azure Service Bus.")
    parser.add_argument("--config", type=Path, required=True, help="Microsoft's emulator Config.json")
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on (%(default)s)")
    parser.add_argument("--port", type=int, default=DEFAULT_PORT, help="AMQP; 0 takes a free one (%(default)s)")
    parser.add_argument("--admin-port", type=int, default=DEFAULT_ADMIN_PORT, help="HTTP (%(default)s)")
    return parser


async def _serve(queues: Mapping[str, QueueOptions], options: argparse.Namespace) -> None:
    broker, stop = Broker(queues), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    host = options.host
    with _taken(host, options.port, "--port"):
        port = await broker.start(host, options.port)
    with _taken(host, options.admin_port, "--admin-port"):
        admin_port = await broker.start_admin(host, options.admin_port)
    sys.stdout.write(
        f"local.broker: ready, AMQP on {host}:{port}, admin on http://{host}:{admin_port}, {len(queues)} queues\n"
    )
    sys.stdout.flush()
    await stop.wait()
    await broker.stop()


class _taken:  # noqa: N801 - reads as a clause
    """Turns the failure to listen into a line a person can act on."""

    def __init__(self, host: str, port: int, flag: str) -> None:
        self._where, self._flag = f"port {port} on {host}", flag

    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        """Explain an OSError, let everything else pass."""
        if not isinstance(error, OSError):
            return
        if error.errno == errno.EADDRINUSE:
            reason = "is taken by another program; stop that one"
        else:
            reason = f"cannot be listened on ({error.strerror})"
        raise Unusable(f"{self._where} {reason}, or choose another with {self._flag}") from error


if __name__ == "__main__":
    sys.exit(main())
