"""The broker as a process of its own, for tests and benchmarks that must not share an interpreter with it.

with BrokerProcess("--config", "Config.json") as broker:
    client = ServiceBusClient.from_connection_string(broker.connection_string)
    ...
    broker.kill()           # a crash; with --data, the next one finds everything
"""

import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

_READY = re.compile(r"AMQP on (?P<address>[^ ,]+), admin on (?P<admin>[^ ,]+)")


class BrokerProcess:
    """`servicebus-local` with these options on free ports, for as long as the `with` lasts.

    `python` is the interpreter and its flags, `environment` replaces that of this process.
    Raises `RuntimeError` when it does not start.
    """

    def __init__(
        self,
        *options: str,
        python: Sequence[str] = (sys.executable,),
        environment: Mapping[str, str] | None = None,
        cwd: str | None = None,
    ) -> None:
        self._command = [*python, "-m", "servicebus_local", "--port", "0", "--admin-port", "0", *options]
        self._environment = environment
        self._cwd = cwd
        self.connection_string = ""
        """What an SDK client needs to connect; it may do everything."""
        self.admin_url = ""
        """The root of the admin port."""

    @property
    def pid(self) -> int:
        """The id of the process."""
        return self._process.pid

    def __enter__(self) -> Self:
        """Start it and wait until it listens."""
        self._process = subprocess.Popen(  # noqa: S603 - our own program, with the caller's options
            self._command, stdout=subprocess.PIPE, text=True, env=self._environment, cwd=self._cwd
        )
        assert self._process.stdout is not None
        ready = _READY.search(self._process.stdout.readline())
        if ready is None:
            status = self._process.wait()
            self._process.stdout.close()
            raise RuntimeError(f"the broker did not start: it ended with status {status}, see what it wrote to stderr")
        self.connection_string = (
            f"Endpoint=sb://{ready['address']};SharedAccessKeyName=RootManageSharedAccessKey;"
            "SharedAccessKey=local;UseDevelopmentEmulator=true"
        )
        self.admin_url = ready["admin"]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop it and wait until it has ended."""
        self._process.terminate()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def kill(self) -> None:
        """Stop it as a crash would, without a chance to put anything in order."""
        self._process.kill()
        self._process.wait()
