"""`ragbus doctor`: what usually goes wrong, checked in the order in which one thing needs another."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from ops import checks, say, target
from ops.checks import Finding, Level
from ops.problem import Problem
from ops.target import Target

if TYPE_CHECKING:
    from rich.table import Table

_COLOURS = {Level.OK: "green", Level.WARN: "yellow", Level.FAIL: "red"}


def examine(folder: Path, config: Path | None, *, as_json: bool) -> int:
    """Print what was found; 1 when something is broken."""
    found = list(_findings(folder, config))
    if as_json:
        say.as_json([asdict(finding) for finding in found])
    else:
        say.console().print(_table(found))
    return 1 if any(finding.level is Level.FAIL for finding in found) else 0


def _findings(folder: Path, config: Path | None) -> Iterator[Finding]:
    yield from checks.python()
    try:
        at = target.find(folder=folder, config=config)
    except Problem as problem:
        yield Finding(Level.FAIL, "target", *_split(str(problem), ": "))
        yield from checks.ports()
        return
    yield Finding(Level.OK, "target", str(at))
    for line in at.differences():
        yield Finding(Level.OK, "target", line)
    for what, check in checks.OF_A_TARGET.items():
        yield from _safely(what, check, at)


def _safely(what: str, check: Callable[[Target], Iterable[Finding]], at: Target) -> Iterator[Finding]:
    try:
        yield from list(check(at))
    except Problem as problem:
        said, fix = _split(str(problem), "; ")
        # "Ask the doctor" is no advice from the doctor.
        yield Finding(Level.FAIL, what, said, "" if "ragbus doctor" in fix else fix)
    except Exception as odd:  # noqa: BLE001 - one check that cannot be made must not hide the others
        yield Finding(Level.WARN, what, f"could not be checked: {odd!r}", "ragbus --debug queues may say more")


def _split(sentence: str, mark: str) -> tuple[str, str]:
    """What is wrong, and the fix, which stands after the last `mark`; before it may be another program's words."""
    said, found, fix = sentence.rpartition(mark)
    return (said, fix) if found else (sentence, "")


def _table(found: Sequence[Finding]) -> "Table":
    from rich.table import Table
    from rich.text import Text

    table = Table("", "what", "found", "fix", box=None, header_style="bold", pad_edge=False)
    for finding in found:
        level = Text(finding.level.value, style=_COLOURS[finding.level])
        table.add_row(level, finding.what, Text(say.harmless(finding.said)), Text(say.harmless(finding.fix)))
    return table
