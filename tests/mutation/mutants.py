"""Mutants by mutmut: one small change each, in a copy of the tree, and the module's tests over each.

A score says how many were noticed. Those that were not are listed with their change: each is a hole in the tests, or
makes no difference.
"""

import json
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.mutation.modules import MODULES

ROOT = Path(__file__).parents[2]
# What the tests of `MODULES` read beside their own folder.
_ALSO = ("local", "ops", "examples", "deploy", "servicebus-local")
# A test that a mutant makes hang is ended by the processor time that it used, not by the clock of a busy machine.
_NOTICED = frozenset({"killed", "timeout", "segfault"})
_RESULT = re.compile(r"^ +(\S+): (.+)$", re.MULTILINE)
# mutmut reads its configuration from the folder it is in, so both run there.
_NAMES = """
import sys
from pathlib import Path
from mutmut.mutation.file_mutation import mutate_file_contents
print(*mutate_file_contents(sys.argv[1], Path(sys.argv[1]).read_text()).mutant_names, sep="\\n")
"""
_SHOW = """
import sys
from mutmut.mutation.diff_apply import get_diff_for_mutant
for name in sys.argv[1:]:
    print(get_diff_for_mutant(name), end="\\0")
"""


class MutationFailed(Exception):
    """mutmut did not come to a result; the text says why."""


@dataclass(frozen=True, slots=True)
class Score:
    """What became of the mutants of one module that were tried."""

    module: str
    tried: int
    """Without those that no test noticed and that change only the wording of a text."""
    wording: int
    """How many those are."""
    survivors: Mapping[str, str]
    """Name → what was changed, as a diff."""

    @property
    def noticed(self) -> int:
        """How many of the mutants turned a test red."""
        return self.tried - len(self.survivors)

    @property
    def share(self) -> float:
        """Those of all that were tried."""
        return self.noticed / self.tried


def copy_of_the_tree(folder: Path) -> None:
    """Copy what git tracks, and what it would track, as it is now."""
    listed = subprocess.run(
        ("git", "-C", str(ROOT), "ls-files", "-coz", "--exclude-standard"), capture_output=True, text=True, check=True
    ).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():  # else it was deleted, and that is not committed yet
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)


def sample(size: int, seed: int) -> list[tuple[str, int]]:
    """Modules in an order drawn from `seed`, each with how many of its mutants to try: `size` in all, or a few more."""
    order = sorted(MODULES)
    random.Random(seed).shuffle(order)
    each = min(size, 25)
    return [(module, each) for module in order[: -(-size // each)]]


def try_module(module: str, folder: Path, *, most: int | None, seed: int, jobs: int) -> Score:
    """Try the mutants of `module` in `folder`, a copy of the tree: all, or `most` drawn from `seed`.

    Raises `MutationFailed`: a test is red without a mutant, or none meets the module.
    """
    _configure(folder, module)
    shutil.rmtree(folder / "mutants", ignore_errors=True)
    names = _drawn(module, folder, most, seed) if most is not None else []
    _mutmut(folder, "run", "--max-children", str(jobs), *names)
    fates = dict(_RESULT.findall(_mutmut(folder, "results", "--all", "true")))
    tried = {
        name: fate
        for name, fate in fates.items()
        if fate not in ("not checked", "skipped") and (not names or name in names)
    }
    if not tried:
        raise MutationFailed(f"{module}: no mutant was tried")
    survived = [name for name, fate in tried.items() if fate not in _NOTICED]
    survivors = dict(zip(survived, _changes(folder, survived), strict=True))
    telling = {name: change for name, change in survivors.items() if not is_wording(change)}
    wording = len(survivors) - len(telling)
    return Score(module, len(tried) - wording, wording, telling)


def is_wording(change: str) -> bool:
    """Whether a diff only puts `XX` around a text of several words, or changes its case."""
    lines = [line for line in change.splitlines() if line[0] in "-+"]
    if len(lines) != 2 or not re.search(r"""["'][^"']*\w \w[^"']*["']""", lines[0]):
        return False
    before, after = (line[1:].casefold() for line in lines)
    return before == after or before == after.replace("xx", "")


def _configure(folder: Path, module: str) -> None:
    text = (ROOT / "pyproject.toml").read_text()
    settings = {
        "source_paths": ["shared", "services"],
        "only_mutate": [module],
        "also_copy": list(_ALSO),
        "track_dependencies": False,
        "pytest_add_cli_args": ["-p", "no:cacheprovider", "-n", "0", "--hypothesis-profile=mutation"],
        "pytest_add_cli_args_test_selection": list(MODULES[module].tests),
        "use_git_change_detection": False,
    }
    lines = (f"{name} = {json.dumps(value)}" for name, value in settings.items())
    (folder / "pyproject.toml").write_text("\n".join((text, "[tool.mutmut]", *lines, "")))


def _drawn(module: str, folder: Path, most: int, seed: int) -> list[str]:
    names = _run(folder, sys.executable, "-c", _NAMES, module).split()
    dotted = module.removesuffix(".py").replace("/", ".")
    return sorted(f"{dotted}.{name}" for name in random.Random(seed).sample(names, min(most, len(names))))


def _changes(folder: Path, names: Sequence[str]) -> list[str]:
    """What each of `names` changes, as the lines of a diff. (`mutmut show` is a second of imports for each.)"""
    shown = _run(folder, sys.executable, "-c", _SHOW, *names) if names else ""
    return [
        "\n".join(line for line in diff.splitlines() if re.match(r"[-+](?![-+])", line))
        for diff in shown.split("\0")[:-1]
    ]


def _mutmut(folder: Path, *arguments: str) -> str:
    return _run(folder, str(Path(sys.executable).with_name("mutmut")), *arguments)


def _run(folder: Path, *command: str) -> str:
    done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        raise MutationFailed(f"{' '.join(command[:3])} ended with {done.returncode}:\n{done.stdout[-3000:]}")
    return done.stdout
