"""The sabotage suite itself: its plants can be planted, and it tells a noticed fault from one that is not."""

import ast
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.sabotage.plant import Moved, Plant
from tests.sabotage.plants import PLANTS
from tests.sabotage.tree import ROOT, Tree
from tests.sabotage.trial import Failed, Fate, Ran, run_tests

CODE = "def double(x):\n    return x * 2\n"
TESTS = "import code_of\n\ndef test_it_doubles():\n    assert code_of.double(2) == 4\n"
TEST = "test_code.py::test_it_doubles"


def a_plant(old: str = "* 2", new: str = "* 3") -> Plant:
    return Plant("a-plant", "It triples.", "code_of.py", old, new, (TEST,))


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.name)
def test_a_plant_finds_its_place_and_its_tests(plant: Plant) -> None:
    """Else the code has moved on: mend the plant, so that it breaks the same thing again."""
    planted = plant.sow((ROOT / plant.file).read_text())
    ast.parse(planted)
    for test in plant.red:
        file, _, name = test.partition("::")
        assert f"def {name.partition('[')[0]}(" in (ROOT / file).read_text(), test


def test_a_plant_breaks_by_what_it_does_and_not_by_a_name_that_is_not_there(tmp_path: Path) -> None:
    """An undefined name would turn any test red."""
    for plant in PLANTS:
        (tmp_path / f"{plant.name}.py").write_text(plant.sow((ROOT / plant.file).read_text()))
    command = (sys.executable, "-m", "ruff", "check", "--isolated", "--no-cache", "--select=F821,F811", str(tmp_path))
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout


def test_plants_have_names_of_their_own() -> None:
    assert [name for name, times in Counter(plant.name for plant in PLANTS).items() if times > 1] == []


@pytest.mark.parametrize(("text", "found"), [("x * 2 * 2", 2), ("x + x", 0)])
def test_a_plant_whose_place_is_not_clear_is_not_planted(text: str, found: int) -> None:
    with pytest.raises(Moved, match=f"mend the plant: code_of.py has {found}"):
        a_plant().sow(text)


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    (tmp_path / "code_of.py").write_text(CODE)
    (tmp_path / "test_code.py").write_text(TESTS)
    return Tree(tmp_path)


@pytest.mark.parametrize(
    ("new", "fate"),
    [
        ("* 3", Fate.RED),
        ("* 2  # as before", Fate.SURVIVED),
        ("* doubled", Fate.BROKEN),
        ("* 2\nraise ImportError", Fate.BROKEN),
    ],
    ids=lambda value: value.value if isinstance(value, Fate) else None,
)
async def test_what_becomes_of_a_plant(tree: Tree, new: str, fate: Fate) -> None:
    with tree.planted(a_plant(new=new)):
        ran = await run_tests(tree.folder, os.environ, (TEST,), report=tree.folder / "report.xml")
    assert ran.fate is fate, ran.output
    assert (ran.proof is not None) is (fate is Fate.RED)
    assert (tree.folder / "code_of.py").read_text() == CODE


def test_a_test_that_ran_out_of_time_proves_nothing() -> None:
    late = Failed("test_code::test_it_doubles", "Failed: Timeout (>60.0s) from pytest-timeout.")
    assert Ran(1, "", (late,)).fate is Fate.BROKEN
    wrong = Failed("test_code::test_it_doubles", "assert 6 == 4")
    assert Ran(1, "", (late, wrong)).proof == wrong


def test_bytecode_of_planted_code_is_not_used_for_the_code_without(tree: Tree) -> None:
    """Both are of the same size and may be of the same second, which is all that Python looks at."""
    for _ in range(2):
        with tree.planted(a_plant()):
            assert doubled(tree) == "6"
        assert doubled(tree) == "4"


def doubled(tree: Tree) -> str:
    command = (sys.executable, "-S", "-c", "import code_of; print(code_of.double(2))")
    return subprocess.run(command, cwd=tree.folder, capture_output=True, text=True, check=True).stdout.strip()
