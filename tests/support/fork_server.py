"""`python -m tests.support.fork_server`: starts our workers quickly, by forking a process that has imported them all.

A worker takes two seconds of CPU to import what it needs and a tenth to begin; a run that kills a hundred of them on
two cores has no time for the first. What is forked is the real worker: the same `main`, in a process, session and
environment of its own, with sockets that the kernel closes when it is killed.

    standard input    {"service": "gateway", "environment": {…}, "log": "…/gateway.log"}    a line each
    standard output   {"ready": true}, then {"pid": 17} for each line, in order, and {"ended": 17, "status": -9}

It ends with its input; what it started dies with it (`local.stack.leash`).
"""

import gc
import importlib
import json
import os
import selectors
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from local.stack import leash
from tests.crash_points.trap import Trap

SERVICES = ("gateway", "retriever", "generator", "indexer")
# What they import late, in their adapters. Nothing of it may start a thread: a fork would not take it along.
_LATE = (
    "azure.servicebus.aio",
    "openai",
    "qdrant_client",
    "redis.asyncio",
    "services.gateway.http",
    "shared.bus.servicebus",
    "shared.embeddings.openai",
    "shared.vectors.qdrant_passages",
    "shared.vectors.qdrant_registry",
    "uvicorn.protocols.http.auto",
)


def main() -> None:
    """Serve until the input ends."""
    for name in (*(f"services.{service}.main" for service in SERVICES), *_LATE):
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # so that the collector does not copy what all share
    _say({"ready": True})
    woken, wakes = os.pipe()
    os.set_blocking(wakes, False)
    os.set_blocking(woken, False)
    signal.set_wakeup_fd(wakes, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    with selectors.DefaultSelector() as selector:
        selector.register(sys.stdin.buffer, selectors.EVENT_READ)
        selector.register(woken, selectors.EVENT_READ)
        while _serve(selector, woken):
            pass


def _serve(selector: selectors.BaseSelector, woken: int) -> bool:
    """Do what there is to do; false at the end of the input."""
    ready = {key.fd for key, _ in selector.select()}
    if woken in ready:
        os.read(woken, 4096)
        _bury()
    if sys.stdin.fileno() not in ready:
        return True
    # Each line is sent after the answer to the one before, so none is left in the buffer unseen.
    line = sys.stdin.buffer.readline()
    if line:
        _say({"pid": _fork(json.loads(line))})
    return bool(line)


def _fork(wanted: Mapping[str, Any]) -> int:
    """Fork; the child never comes back."""
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()
        leash.tie(parent)
        _move_in(wanted["environment"], Path(wanted["log"]))
        _work(wanted["service"])
        status = 0
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else 1
    except BaseException:  # noqa: BLE001 - said in its log, as Python would
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _work(service: str) -> None:
    """Run the service as its image does; where a folder of crash points is named, with traps around its ports."""
    main = importlib.import_module(f"services.{service}.main")
    trap = Trap.of(service, os.environ)
    if trap is None:
        main.main()
        return
    from tests.crash_points.ports import trapped

    main.main(lambda settings, metrics: trapped(main.open_ports(settings, metrics), trap))


def _move_in(environment: Mapping[str, str], log: Path) -> None:
    os.environ.clear()
    os.environ.update(environment)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    silence = os.open(os.devnull, os.O_RDONLY)
    os.dup2(silence, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.closerange(3, 256)


def _bury() -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not pid:
            return
        _say({"ended": pid, "status": os.waitstatus_to_exitcode(status)})


def _say(what: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
