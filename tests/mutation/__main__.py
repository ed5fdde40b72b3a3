"""`python -m tests.mutation`: breaks the code in many small ways and says which of them no test notices.

Two kinds: `behaviours`, where a port does otherwise than it promises, and mutants by mutmut of the modules that only
decide. Exit status 1: a behaviour was not noticed, or of all mutants fewer than `FLOOR`.
"""

import argparse
import os
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.mutation.behaviours import BEHAVIOURS
from tests.mutation.modules import MODULES
from tests.mutation.mutants import MutationFailed, Score, copy_of_the_tree, sample, try_module
from tests.mutation.trial import Fate, green_without, try_behaviours

# Of all mutants that change more than the wording of a text, so many must be noticed. Below it, tests were lost. A
# sample is not judged by it: its modules differ too much.
FLOOR = 0.70
# In a sample of N mutants, N / 5 behaviours.
MUTANTS_PER_BEHAVIOUR = 5


def main(argv: list[str] | None = None) -> int:
    """Try what was asked for; says how it went."""
    options = _options(argv)
    started, names, modules = time.monotonic(), sorted(BEHAVIOURS), [(module, options.sample) for module in MODULES]
    if options.only:
        names = [name for name in names if name in options.only]
        modules = [(module, None) for module in options.only if module in MODULES]
    elif options.sample:
        names = random.Random(options.seed).sample(names, min(len(names), 1 + options.sample // MUTANTS_PER_BEHAVIOUR))
        modules = sample(options.sample, options.seed)
        _print(f"mutation: a sample of {options.sample}; repeat it with SEED={options.seed}")
    passed = _behaviours(names, options.jobs) if names else True
    if modules:
        passed = _mutants(modules, options) and passed
    _print(f"mutation: {'passed' if passed else 'failed'} after {time.monotonic() - started:.0f} s")
    return 0 if passed else 1


def _behaviours(names: Sequence[str], jobs: int) -> bool:
    clean = green_without(names, jobs)
    if clean.fate is not Fate.SURVIVED:
        _print(f"mutation: red before anything was changed, which proves nothing:\n{clean.detail}")
        return False
    unnoticed = []
    for trial in try_behaviours(names, jobs):
        _print(f"{trial.fate.value:9} {trial.name:34} {trial.detail}")
        if trial.fate is not Fate.NOTICED:
            unnoticed.append(trial.name)
    for name in unnoticed:
        _print(f"mutation: no test noticed {name}: {BEHAVIOURS[name].breaks}")
    _print(f"mutation: {len(names) - len(unnoticed)} of {len(names)} behaviours were noticed")
    return not unnoticed


def _mutants(modules: Sequence[tuple[str, int | None]], options: argparse.Namespace) -> bool:
    scores: list[Score] = []
    failed = False
    with tempfile.TemporaryDirectory(prefix="ragbus-mutants-") as folder:
        tree = Path(folder).resolve()
        copy_of_the_tree(tree)
        for module, most in modules:
            try:
                score = try_module(module, tree, most=most, seed=options.seed, jobs=options.jobs)
            except MutationFailed as why:
                _print(f"mutation: {why}")
                failed = True
                continue
            scores.append(score)
            _print(f"{score.noticed:4} of {score.tried:4} noticed  {module}")
            for name, change in score.survivors.items():
                _print(f"     {name.rpartition('.')[2]}\n         " + change.replace("\n", "\n         "))
    noticed, tried = sum(score.noticed for score in scores), sum(score.tried for score in scores)
    if not tried:
        return False
    wording = sum(score.wording for score in scores)
    _print(
        f"mutation: {noticed} of {tried} mutants in {len(scores)} modules were noticed, a score of "
        f"{noticed / tried:.0%} ({wording} more change only the wording of a text and are not counted)"
    )
    return not failed and (bool(options.sample or options.only) or noticed / tried >= FLOOR)


def _print(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _options(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m tests.mutation", description="Do the tests notice broken code?")
    parser.add_argument("--sample", type=int, metavar="N", help="about N mutants and a fifth as many behaviours")
    parser.add_argument("--seed", type=int, help="which sample (default: another one each time)")
    everything = [*sorted(BEHAVIOURS), *MODULES]
    parser.add_argument("--only", action="append", metavar="NAME", choices=everything, help="this behaviour or module")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes at once (%(default)s)")
    parser.add_argument("--list", action="store_true", help="list what there is, and try nothing")
    options = parser.parse_args(argv)
    if options.jobs < 1 or (options.sample is not None and options.sample < 1):
        parser.error("--jobs and --sample must be above 0")
    if options.seed is None:
        options.seed = random.SystemRandom().randrange(10_000)
    if options.list:
        width = max(map(len, everything))
        lines = [f"{behaviour.name:{width}}  {behaviour.breaks}" for behaviour in BEHAVIOURS.values()]
        parser.exit(0, "\n".join((*lines, *MODULES, "")))
    return options


if __name__ == "__main__":
    sys.exit(main())
