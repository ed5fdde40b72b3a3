"""Which ports the parts listen on: the usual ones, or free ones for demonstrations and tests."""

import random
import socket
from collections.abc import Collection, Iterator

from local.stack.errors import CannotStart

HOST = "127.0.0.1"
USUAL = {"broker": 5672, "admin": 5300, "vectors": 6333, "llm": 8090, "redis": 6379, "gateway": 8080}
_HINTS = {
    "redis": f"set RAGBUS_REDIS_URL=redis://{HOST}:6379/0 to use the one there",
    "vectors": f"set RAGBUS_QDRANT_URL=http://{HOST}:6333 to use the one there",
}
# Below the range from which Linux, macOS and Windows take ports for outgoing connections, so that no system gives one
# of these to another program between our check and the part's bind.
_FREE_FROM, _FREE_TO = 18_000, 32_000


def usual(names: Collection[str]) -> dict[str, int]:
    """The well-known port of each of `names`; raises `CannotStart` that names all that are taken."""
    taken = [name for name in names if not _is_free(USUAL[name])]
    if taken:
        listed = ", ".join(f"{USUAL[name]} ({name})" for name in taken)
        which = f"port {listed} is" if len(taken) == 1 else f"ports {listed} are"
        # Using what listens there helps only when it is the only obstacle.
        hints = [_HINTS[name] for name in taken] if _HINTS.keys() >= set(taken) else []
        raise CannotStart(", or ".join([f"{which} in use: stop what listens there", *hints, "use --free-ports"]))
    return {name: USUAL[name] for name in names}


def free() -> Iterator[int]:
    """Ports that are free, each once."""
    given: set[int] = set()
    while True:
        port = random.randrange(_FREE_FROM, _FREE_TO)  # noqa: S311 - not a secret
        if port not in given and _is_free(port):
            given.add(port)
            yield port


def _is_free(port: int) -> bool:
    try:
        socket.create_server((HOST, port)).close()
    except OSError:
        return False
    return True
