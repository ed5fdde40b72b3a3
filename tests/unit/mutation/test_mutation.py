"""What `make mutation` needs: everything it names exists, and it tells what a test noticed from what it did not."""

import multiprocessing
import re
from pathlib import Path

import pytest

from tests.mutation.modules import MODULES
from tests.mutation.mutants import ROOT, is_wording, sample
from tests.mutation.page import PAGE, guarded, page
from tests.mutation.trial import Fate, Trial, run_tests


def names_of_tests(file: Path) -> set[str]:
    return set(re.findall(r"def (test_\w+)\(", file.read_text()))


def test_every_promise_names_a_test_that_there_is() -> None:
    named = [(name, *promise.test.split("::")) for promise, name in guarded()]
    assert [each for each in named if each[2] not in names_of_tests(ROOT / each[1])] == []


def test_every_module_has_its_tests_and_those_of_its_promises() -> None:
    for file, module in MODULES.items():
        files = (file, *(test.partition("::")[0] for test in module.tests))
        assert [each for each in files if not (ROOT / each).is_file()] == []
        for promise in module.promises:
            assert {promise.test, promise.test.partition("::")[0]} & {*module.tests}, promise


def test_the_page_of_promises_is_that_of_the_tables() -> None:
    assert PAGE.read_text() == page(), "python -m tests.mutation --write-promises"


@pytest.mark.parametrize(
    ("body", "fate"),
    [
        ("assert 2 * 3 == 4", Fate.NOTICED),
        ("assert 2 * 2 == 4", Fate.SURVIVED),
        ("assert doubled(2) == 4", Fate.BROKEN),
        ("import no_such_module", Fate.BROKEN),
    ],
)
def test_a_mutation_is_noticed_by_a_test_that_ran_and_failed(tmp_path: Path, body: str, fate: Fate) -> None:
    file = tmp_path / "test_code.py"
    file.write_text(f"def test_it_doubles():\n    {body}\n")
    with multiprocessing.get_context("fork").Pool(1) as pool:
        trial: Trial = pool.apply(run_tests, ([f"{file}::test_it_doubles"],))
    assert trial.fate is fate, trial.detail


@pytest.mark.parametrize(
    ("change", "wording"),
    [
        ('-    raise Wrong("it is too late")\n+    raise Wrong("XXit is too lateXX")', True),
        ('-    raise Wrong("it is too late")\n+    raise Wrong("IT IS TOO LATE")', True),
        ('-    raise Wrong("it is too late")\n+    raise Wrong(None)', False),
        ('-    key = "tenant"\n+    key = "XXtenantXX"', False),
        ("-    if left <= 0:\n+    if left < 0:", False),
    ],
)
def test_a_change_of_wording_is_not_counted(change: str, wording: bool) -> None:
    assert is_wording(change) is wording


def test_a_seed_draws_the_same_sample() -> None:
    assert sample(40, 7) == sample(40, 7)
    assert sum(most for _, most in sample(40, 7)) >= 40
    assert len({tuple(sample(40, seed)) for seed in range(5)}) > 1
