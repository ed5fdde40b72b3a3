"""Try a mutation by hand on its tests, in a fork of this process that has imported everything already."""

import contextlib
import multiprocessing
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final
from xml.etree import ElementTree

import pytest

from tests.mutation.behaviours import BEHAVIOURS, Behaviour
from tests.mutation.effects import EFFECTS, Effect
from tests.mutation.faults import Fault, lost
from tests.mutation.promises import tests_of
from tests.support.ports import Wiring

BY_NAME: Final[dict[str, Effect | Behaviour]] = {**EFFECTS, **BEHAVIOURS}

# Of one test, in seconds: a guard against hanging. A test that a mutation keeps waiting ends by its own time-out.
TIMEOUT = 120
# How a failure begins that says something about the mutation or the machine, and nothing about the test.
_NO_PROOF = ("Failed: Timeout", "NameError", "ImportError", "ModuleNotFoundError", "SyntaxError", "TypeError")


class Fate(Enum):
    """What became of a mutation."""

    NOTICED = "noticed"
    SURVIVED = "survived"
    BROKEN = "broken"


@dataclass(frozen=True, slots=True)
class Trial:
    """How the tests of one mutation ended."""

    name: str
    fate: Fate
    detail: str
    """The test that noticed it and the first line of why, or the end of what pytest printed."""


def try_each(names: Sequence[str], jobs: int) -> Iterator[Trial]:
    """Try each in a process of its own, `jobs` at once; yields them as they end."""
    with multiprocessing.get_context("fork").Pool(jobs, maxtasksperchild=1) as pool:
        yield from pool.imap_unordered(_try, names, chunksize=1)


def green_without(names: Sequence[str], jobs: int) -> Trial:
    """Run the tests of all `names` behind the wrappers, with nothing wrong: what is red then proves nothing."""
    tests = dict.fromkeys(promise.test for name in names for promise in BY_NAME[name].promises)
    parts = [list(tests)[start::jobs] for start in range(min(jobs, len(tests)))]
    with multiprocessing.get_context("fork").Pool(jobs, maxtasksperchild=1) as pool:
        trials = pool.map(_try_nothing, parts, chunksize=1)
    return next((trial for trial in trials if trial.fate is not Fate.SURVIVED), trials[0])


def _try(name: str) -> Trial:
    BY_NAME[name].apply()
    return run_tests(tests_of(BY_NAME[name].promises), name)


def _try_nothing(tests: Sequence[str]) -> Trial:
    Wiring.around = Fault("", lost()).wire
    return run_tests(tests)


def run_tests(tests: Sequence[str], name: str = "nothing") -> Trial:
    """Noticed when each of `tests` ran and failed; running out of time, or not being collected, says nothing."""
    with tempfile.TemporaryDirectory(prefix="ragbus-mutation-") as folder:
        report, output = Path(folder, "report.xml"), Path(folder, "output")
        with output.open("w") as said, contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            status = pytest.main(
                [
                    *("-q", "-p", "no:cacheprovider", "-n", "0", f"--timeout={TIMEOUT}"),
                    # Plugins were imported before pytest began; it would rewrite their assertions, which nobody needs.
                    *("-W", "ignore::pytest.PytestAssertRewriteWarning"),
                    # A test that fails in the middle leaves open what it had opened.
                    *("-W", "ignore::ResourceWarning", "-W", "ignore::pytest.PytestUnraisableExceptionWarning"),
                    *(f"--junitxml={report}", *tests),
                ]
            )
        if status == 0:
            return Trial(name, Fate.SURVIVED, "")
        proofs = {test: why for test, why in _failures(report) if not why.startswith(_NO_PROOF)}
        if status == 1 and {test.rpartition("::")[2] for test in tests} == proofs.keys():
            return Trial(name, Fate.NOTICED, "; ".join(f"{test}: {why[:100]}" for test, why in proofs.items()))
        return Trial(name, Fate.BROKEN, "\n".join(output.read_text().splitlines()[-30:]))


def _failures(report: Path) -> list[tuple[str, str]]:
    """Each test that failed in one of its cases, and the first line of why."""
    if not report.exists():  # pytest could not even begin
        return []
    cases = ElementTree.parse(report).iter("testcase")
    failed = ((case.get("name", ""), failure) for case in cases if (failure := case.find("failure")) is not None)
    return [(name.partition("[")[0], (failure.get("message") or "").partition("\n")[0]) for name, failure in failed]
