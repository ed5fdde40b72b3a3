"""`python -m local.broker --config Config.json`: the broker as a process of its own."""

import argparse
import asyncio
import errno
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from local.broker.bus.store import MemoryStore, Store, StoreError
from local.broker.bus.topology import Topology
from local.broker.config import EMULATOR_DEFAULTS, ConfigError, load
from local.broker.policies import check_entities, load_policies
from local.broker.server import Broker

DEFAULT_PORT: Final = 5672
DEFAULT_ADMIN_PORT: Final = 5300


_SYNCHRONOUS: Final = (
    "with --data: full survives a power cut, normal (the default) all of it but the last commits, off none of it; "
    "what a killed process had confirmed is safe with any of them"
)


class Unusable(Exception):
    """The broker cannot start; one line says why and what to do."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until a signal comes; return the exit status."""
    options = _parser().parse_args(arguments)
    try:
        _run(options)
    except (ConfigError, StoreError, Unusable) as error:
        sys.stderr.writelines(f"local.broker: {line}\n" for line in str(error).splitlines())
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("local.broker", description="A local Azure Service Bus.")
    parser.add_argument("--config", type=Path, help="the entities, as Microsoft's emulator Config.json has them")
    unknown = parser.add_mutually_exclusive_group()
    unknown.add_argument("--auto-create", action="store_true", help="create unknown queues when they are used")
    unknown.add_argument("--strict-emulator", action="store_true", help="refuse what Microsoft's emulator refuses")
    parser.add_argument("--keys", type=Path, help="shared access policies, a JSON file (see the README)")
    parser.add_argument("--data", type=Path, help="keep everything in this directory, or .sqlite3 file; else in memory")
    parser.add_argument("--synchronous", choices=("off", "normal", "full"), help=_SYNCHRONOUS)
    parser.add_argument(
        "--record", type=int, metavar="N", help="keep the last N events of messages for GET /deliveries"
    )
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on (%(default)s)")
    parser.add_argument("--port", type=int, default=DEFAULT_PORT, help="AMQP; 0 takes a free one (%(default)s)")
    parser.add_argument("--admin-port", type=int, default=DEFAULT_ADMIN_PORT, help="HTTP (%(default)s)")
    return parser


def _run(options: argparse.Namespace) -> None:
    topology, store = _topology(options), _store(options)
    try:
        asyncio.run(_serve(_broker(topology, store, options), options))
    finally:
        store.close()


def _store(options: argparse.Namespace) -> Store:
    """Open the store; SQLite is imported only if there is one."""
    if options.data is None:
        if options.synchronous is not None:
            raise Unusable("--synchronous says how --data is written: give both or none")
        return MemoryStore()
    from local.broker.bus.sqlite_store import open_store

    return open_store(options.data, options.synchronous or "normal")


def _broker(topology: Topology, store: Store, options: argparse.Namespace) -> Broker:
    """Make the broker that the options describe."""
    policies = load_policies(options.keys) if options.keys is not None else {}
    broker = Broker(
        topology,
        store=store,
        keys=policies,
        auto_create=EMULATOR_DEFAULTS if options.auto_create else None,
        strict_emulator=options.strict_emulator,
    )
    if not options.auto_create:
        check_entities(policies, broker.namespace)
    if options.record is not None:
        _record(broker, options.record)
    return broker


def _record(broker: Broker, limit: int) -> None:
    try:
        broker.record.start(limit)
    except ValueError as error:
        raise Unusable(f"--record {limit}: {error}") from error


def _topology(options: argparse.Namespace) -> Topology:
    if options.config is not None:
        return load(options.config, strict=options.strict_emulator)
    if not options.auto_create and options.data is None:
        raise Unusable("which entities are there? Name them with --config, keep them with --data, or use --auto-create")
    return Topology()


async def _serve(broker: Broker, options: argparse.Namespace) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    broker.on_failure = stop.set
    host = options.host
    with _taken(host, options.port, "--port"):
        port = await broker.start(host, options.port)
    with _taken(host, options.admin_port, "--admin-port"):
        admin_port = await broker.start_admin(host, options.admin_port)
    sys.stdout.write(
        f"local.broker: ready, AMQP on {host}:{port}, admin on http://{host}:{admin_port}, "
        f"{len([*broker.namespace.queues(), *broker.namespace.topics()])} entities\n"
    )
    sys.stdout.flush()
    await stop.wait()
    await broker.stop()
    if broker.failure is not None:
        raise broker.failure


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
