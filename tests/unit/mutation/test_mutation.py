"""What `make mutation` needs: everything it names exists, and it tells what a test noticed from what it did not."""

import multiprocessing
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mutation.behaviours import BEHAVIOURS
from tests.mutation.modules import MODULES
from tests.mutation.mutants import ROOT, is_wording, sample
from tests.mutation.trial import Fate, Trial, run_tests

PROMISES = ROOT / "docs/explanation/promises.md"


def names_of_tests(file: Path) -> set[str]:
    return set(re.findall(r"def (test_\w+)\(", file.read_text()))


def missing() -> Iterator[str]:
    for behaviour in BEHAVIOURS.values():
        for test in behaviour.red:
            file, _, name = test.partition("::")
            if name not in names_of_tests(ROOT / file):
                yield f"{behaviour.name}: {test}"
    for module, files in MODULES.items():
        yield from (f"{module}: {file}" for file in (module, *files) if not (ROOT / file).is_file())


def test_every_mutation_finds_its_tests() -> None:
    assert list(missing()) == []


def test_the_list_of_promises_names_what_there_is() -> None:
    files = {file.stem: file for file in (ROOT / "tests").rglob("test_*.py")}
    rows = re.findall(r"^\| .+ \| `(\w+)::(\w+)` \| (by hand|`[\w./-]+`) \|$", PROMISES.read_text(), re.MULTILINE)
    assert len(rows) == PROMISES.read_text().count("\n| ") - 2  # the heads of two tables
    wrong = [
        (file, test, broken_by)
        for file, test, broken_by in rows
        if file not in files
        or test not in names_of_tests(files[file])
        or (broken_by != "by hand" and broken_by.strip("`") not in {*BEHAVIOURS, *MODULES})
    ]
    assert wrong == []


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
