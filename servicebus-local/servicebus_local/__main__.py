"""`servicebus-local --config Config.json`, or `python -m servicebus_local`: the broker as a process of its own."""

import argparse
import asyncio
import errno
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from servicebus_local.bus.store import MemoryStore, Store, StoreError
from servicebus_local.bus.topology import Topology
from servicebus_local.config import EMULATOR_DEFAULTS, ConfigError, load
from servicebus_local.policies import check_entities, load_policies
from servicebus_local.server import Broker

_LOGGER = logging.getLogger("servicebus_local")
DEFAULT_PORT: Final = 5672
DEFAULT_ADMIN_PORT: Final = 5300
_LARGEST_PORT: Final = 65535
_FILES: Final = 10240  # macOS allows no more

_SYNCHRONOUS: Final = (
    "with --data: full survives a power cut, normal (the default) all of it but the last commits, off none of it; "
    "what a killed process had confirmed is safe with any of them"
)


class Unusable(Exception):
    """The broker cannot start; one line says why and what to do."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until a signal comes; return the exit status."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(format="servicebus-local: %(message)s")
    try:
        _run(options)
    except (ConfigError, StoreError, Unusable) as error:
        sys.stderr.writelines(f"servicebus-local: {line}\n" for line in str(error).splitlines())
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("servicebus-local", description="A local Azure Service Bus.")
    parser.add_argument("--config", type=Path, help="the entities, as Microsoft's emulator Config.json has them")
    unknown = parser.add_mutually_exclusive_group()
    unknown.add_argument("--auto-create", action="store_true", help="create unknown queues when they are used")
    unknown.add_argument("--strict-emulator", action="store_true", help="refuse what Microsoft's emulator refuses")
    parser.add_argument("--keys", type=Path, help="shared access policies, a JSON file (docs/configuration.md)")
    parser.add_argument("--data", type=Path, help="keep everything in this directory, or .sqlite3 file; else in memory")
    parser.add_argument("--synchronous", choices=("off", "normal", "full"), help=_SYNCHRONOUS)
    parser.add_argument(
        "--record", type=int, metavar="N", help="keep the last N events of messages for GET /deliveries"
    )
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on (%(default)s)")
    parser.add_argument("--port", type=_port, default=DEFAULT_PORT, help="AMQP; 0 takes a free one (%(default)s)")
    parser.add_argument("--admin-port", type=_port, default=DEFAULT_ADMIN_PORT, help="HTTP (%(default)s)")
    return parser


def _port(text: str) -> int:
    if text.isdecimal() and int(text) <= _LARGEST_PORT:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a port; 0 to {_LARGEST_PORT} are")


def _run(options: argparse.Namespace) -> None:
    if options.port == options.admin_port != 0:
        raise Unusable(f"--port and --admin-port are both {options.port}: they take one each")
    topology = Topology()
    if options.config is not None:
        topology = load(options.config, strict=options.strict_emulator)
    elif not options.auto_create and options.data is None:
        raise Unusable("there are no entities: name them with --config, keep them with --data, or use --auto-create")
    store = _store(options)
    try:
        asyncio.run(_serve(_broker(topology, store, options), options))
    finally:
        store.close()


def _store(options: argparse.Namespace) -> Store:
    """Open the store; SQLite is imported only if there is one. Raises `StoreError` and `Unusable`."""
    if options.data is None:
        if options.synchronous is not None:
            raise Unusable("--synchronous says how --data is written: give both or none")
        return MemoryStore()
    from servicebus_local.bus.sqlite_store import open_store

    return open_store(options.data, options.synchronous or "normal")


def _broker(topology: Topology, store: Store, options: argparse.Namespace) -> Broker:
    """Make the broker that the options describe; raises `ConfigError` and `Unusable`."""
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
        try:
            broker.record.start(options.record)
        except ValueError as error:
            raise Unusable(f"--record {options.record}: {error}") from error
    return broker


async def _serve(broker: Broker, options: argparse.Namespace) -> None:
    stop = asyncio.Event()
    _on_signals(stop.set)
    _allow_many_connections()
    asyncio.get_running_loop().set_exception_handler(_ConnectionLimitLog())
    broker.on_failure = stop.set
    host = options.host
    with _listening_on(host, options.port, "--port"):
        port = await broker.start(host, options.port)
    with _listening_on(host, options.admin_port, "--admin-port"):
        admin_port = await broker.start_admin(host, options.admin_port)
    entities = f"{broker.namespace.size} {'entity' if broker.namespace.size == 1 else 'entities'}"
    sys.stdout.write(
        f"servicebus-local: ready, AMQP on {host}:{port}, admin on http://{host}:{admin_port}, {entities}\n"
    )
    sys.stdout.flush()
    await stop.wait()
    await broker.stop()
    if broker.failure is not None:
        raise broker.failure


def _on_signals(stop: Callable[[], None]) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        try:
            loop.add_signal_handler(number, stop)
        except NotImplementedError:  # Windows
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(stop))


def _allow_many_connections() -> None:
    """Lift the limit of open files, 256 on macOS: every sender and receiver of an SDK is a connection."""
    try:
        import resource
    except ImportError:  # Windows, which has no such limit
        return
    now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES if most == resource.RLIM_INFINITY else min(_FILES, most)
    if now != resource.RLIM_INFINITY and now < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


class _ConnectionLimitLog:
    """Says once that no connection can be accepted; asyncio would, with a traceback, for every attempt."""

    def __init__(self) -> None:
        self._told = False

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Take what asyncio has to report."""
        error = context.get("exception")
        if not isinstance(error, OSError) or error.errno not in (errno.EMFILE, errno.ENFILE):
            loop.default_exception_handler(context)
        elif not self._told:
            self._told = True
            _LOGGER.warning("no more connections can be accepted (%s): see ulimit -n", error.strerror)


@contextmanager
def _listening_on(host: str, port: int, flag: str) -> Iterator[None]:
    """Turn the failure to listen into a line a person can act on: raises `Unusable` instead of `OSError`."""
    try:
        yield
    except socket.gaierror as error:
        raise Unusable(f"{host} is no address ({error.strerror}); choose another with --host") from error
    except OSError as error:
        number = error.errno or errno.EADDRNOTAVAIL  # asyncio of Python 3.13 gives none for that one
        why, where = os.strerror(number), f"port {port} on {host}"
        if number == errno.EADDRNOTAVAIL:
            raise Unusable(f"{host} is no address of this machine ({why}); choose another with --host") from error
        if number == errno.EADDRINUSE:
            other = f"stop that one, or choose another with {flag}"
            raise Unusable(f"{where} is taken by another program; {other}") from error
        raise Unusable(f"{where} cannot be listened on ({why}); choose another with {flag}") from error


if __name__ == "__main__":
    sys.exit(main())
