"""`python -m tests.mutation`: breaks the code in many small ways and says which of them no test notices.

Three kinds: faults of effects at a port (`effects`), decisions made otherwise (`behaviours`), and mutants by mutmut of
the modules that only decide (`modules`). Exit status 1: one of the first two was not noticed, or of the mutants of a
module fewer than before.
"""

import argparse
import os
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.mutation.modules import MODULES
from tests.mutation.mutants import ROOT, MutationFailed, Score, copy_of_the_tree, sample, try_module
from tests.mutation.page import PAGE, page
from tests.mutation.trial import BY_NAME, Fate, green_without, try_each

# In a sample of N mutants, N / 5 behaviours.
MUTANTS_PER_BEHAVIOUR = 5


def main(argv: list[str] | None = None) -> int:
    """Try what was asked for; says how it went."""
    options = _options(argv)
    started, names, modules = time.monotonic(), sorted(BY_NAME), [(module, options.sample) for module in MODULES]
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
    for trial in try_each(names, jobs):
        _print(f"{trial.fate.value:9} {trial.name:34} {trial.detail}")
        if trial.fate is not Fate.NOTICED:
            unnoticed.append(trial.name)
    for name in unnoticed:
        _print(f"mutation: no test noticed {name}: {_broken_by(name)}")
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
            floor = MODULES[module].floor
            _print(f"{score.noticed:4} of {score.tried:4} noticed, {score.share:4.0%} (floor {floor:.0%})  {module}")
            if most is None and score.share < floor:
                _print(f"mutation: {module}: fewer mutants are noticed than before, write tests for those below")
                failed = True
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
    return not failed


def _broken_by(name: str) -> str:
    return " ".join(promise.without for promise in BY_NAME[name].promises)


def _print(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _options(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m tests.mutation", description="Do the tests notice broken code?")
    parser.add_argument("--sample", type=int, metavar="N", help="about N mutants and a fifth as many behaviours")
    parser.add_argument("--seed", type=int, help="which sample (default: another one each time)")
    everything = [*sorted(BY_NAME), *MODULES]
    parser.add_argument("--only", action="append", metavar="NAME", choices=everything, help="this behaviour or module")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes at once (%(default)s)")
    parser.add_argument("--list", action="store_true", help="list what there is, and try nothing")
    parser.add_argument("--write-promises", action="store_true", help=f"write {PAGE.relative_to(ROOT)}; try nothing")
    options = parser.parse_args(argv)
    if options.jobs < 1 or (options.sample is not None and options.sample < 1):
        parser.error("--jobs and --sample must be above 0")
    if options.seed is None:
        options.seed = random.SystemRandom().randrange(10_000)
    if options.write_promises:
        PAGE.write_text(page())
        parser.exit()
    if options.list:
        width = max(map(len, everything))
        lines = [f"{name:{width}}  {_broken_by(name)}" for name in BY_NAME]
        parser.exit(0, "\n".join((*lines, *MODULES, "")))
    return options


if __name__ == "__main__":
    sys.exit(main())
