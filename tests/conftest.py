"""What many tests need: a real Redis (Valkey from its wheel), and nothing of the machine's settings."""

import os
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from local.stack.redis import command
from shared.redis import FailFastRedis
from tests.support.ports import wired

# How long an example takes says how busy the machine is, and nothing about the code.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")
# For mutants: the same few examples each time, so that a mutant is noticed or not whatever the day.
settings.register_profile("mutation", settings.get_profile("busy"), max_examples=30, derandomize=True, database=None)


@pytest.fixture(autouse=True)
def _no_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("RAGBUS_", "OTEL_", "AZURE_"))]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a Redis for this session."""
    with running_redis(tmp_path_factory.mktemp("redis")) as url:
        yield url


@pytest.fixture
def redis_url(redis_server: str) -> str:
    """The URL of an empty Redis."""
    _say(redis_server, b"FLUSHALL\r\n")
    return redis_server


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[FailFastRedis]:
    """Our connection to an empty Redis."""
    # A busy machine must not look like a Redis that is away; tests that mean that have one of their own.
    connection = FailFastRedis(redis_url, timeout=60)
    yield wired(connection)
    await connection.close()


# What CI may skip: the schemas of others, which this repository does not contain.
_MAY_SKIP = ("is not beside this project",)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """In CI a skipped test is a failure; RAGBUS_CI_LACKS names what `.ci/run` could not get."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if not os.environ.get("CI") or reporter is None:
        return
    may = (*_MAY_SKIP, *os.environ.get("RAGBUS_CI_LACKS", "").split())
    skipped = [report.longreprtext for report in reporter.stats.get("skipped", [])]
    if unexpected := [reason for reason in skipped if not any(each in reason for each in may)]:
        reporter.write_line(f"\nCI skips nothing, and {len(unexpected)} tests were: {unexpected[0]}", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


class running_redis:  # noqa: N801 - used as a function in a with statement
    """A Redis of one's own, to be stopped or killed."""

    def __init__(self, folder: Path, port: int | None = None) -> None:
        self._folder = folder
        self.port = port or free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> str:
        self._process = subprocess.Popen(
            command(self.port, self._folder), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        url = f"redis://127.0.0.1:{self.port}/0"
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline:
            try:
                if _say(url, b"PING\r\n").startswith(b"+PONG"):
                    return url
            except OSError:
                time.sleep(0.02)
        raise TimeoutError("Redis did not start")

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _say(url: str, command: bytes) -> bytes:
    port = int(url.rsplit(":", 1)[1].split("/")[0])
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(command)
        return connection.recv(64)
