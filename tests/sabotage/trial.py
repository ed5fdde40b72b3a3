"""Running tests in a tree, and what their end means for a plant."""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE, STDOUT, Process
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from xml.etree import ElementTree

# Of one test, in seconds. A plant that makes its test hang is found out by the test's own patience, which is shorter.
TIMEOUT = 60
# How long pytest may take to stop what its tests have started.
_LEAVING = 10.0
# How a failure begins that says something about the plant or the machine, and nothing about the test.
_NO_PROOF = ("Failed: Timeout", "NameError", "ImportError", "ModuleNotFoundError", "SyntaxError", "IndentationError")


class Fate(Enum):
    """What became of a plant."""

    RED = "red"
    SURVIVED = "survived"
    BROKEN = "broken"


@dataclass(frozen=True, slots=True)
class Failed:
    """A test that ran and failed, and the first line of why."""

    test: str
    why: str


@dataclass(frozen=True, slots=True)
class Ran:
    """How a run of pytest ended."""

    status: int
    output: str
    failed: tuple[Failed, ...]

    @property
    def fate(self) -> Fate:
        """Red only by a test that ran and failed: what could not be collected, or ran out of time, proves nothing."""
        if self.status == 0:
            return Fate.SURVIVED
        return Fate.RED if self.status == 1 and self.proof is not None else Fate.BROKEN

    @property
    def proof(self) -> Failed | None:
        """The first failure that says that something is broken."""
        return next((failed for failed in self.failed if not failed.why.startswith(_NO_PROOF)), None)


async def run_tests(
    folder: Path, environment: Mapping[str, str], tests: Sequence[str], *, jobs: int = 0, report: Path
) -> Ran:
    """Run `tests` in `folder`; with `jobs` to the end in so many processes, else one by one up to the first failure."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", str(jobs), f"--timeout={TIMEOUT}"),
        *(f"--junitxml={report}", *([] if jobs else ["-x"]), *tests),
        cwd=folder,
        env=environment,
        stdout=PIPE,
        stderr=STDOUT,
        start_new_session=True,
    )
    try:
        said, _ = await process.communicate()
    except asyncio.CancelledError:
        await _interrupt(process)
        raise
    finally:
        # What a broken test left behind; a plant may well have broken how it stops things.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    failed = tuple(_failures(report)) if report.exists() else ()
    report.unlink(missing_ok=True)
    return Ran(process.returncode or 0, said.decode(errors="replace"), failed)


async def _interrupt(process: Process) -> None:
    """As Ctrl-C does, so that fixtures are torn down."""
    with suppress(ProcessLookupError, TimeoutError):
        process.send_signal(signal.SIGINT)
        async with asyncio.timeout(_LEAVING):
            await process.wait()


def _failures(report: Path) -> list[Failed]:
    cases = ElementTree.parse(report).iter("testcase")
    return [
        Failed(f"{case.get('classname', '').rpartition('.')[2]}::{case.get('name', '')}", _first_line(failure))
        for case in cases
        if (failure := case.find("failure")) is not None
    ]


def _first_line(failure: ElementTree.Element) -> str:
    return (failure.get("message") or "").partition("\n")[0]
