"""`ragbus doctor`: checks for common faults, dependencies first."""

import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from ops import checks, console, target
from ops.errors import CommandError
from ops.findings import Finding, Level
from ops.target import Target

if TYPE_CHECKING:
    from rich.table import Table

# Seconds for one check: signing in to Azure may try several kinds of identity.
DEADLINE = 20.0
_COLOURS = {Level.OK: "green", Level.WARN: "yellow", Level.FAIL: "red"}


def examine(folder: Path, config: Path | None, *, as_json: bool) -> int:
    """Print each finding when it is made; returns 1 when something is broken, else 0."""
    # The SDK logs a traceback for each attempt to reach a hung broker; a finding needs one line.
    logging.getLogger("azure").setLevel(logging.CRITICAL)
    found: list[Finding] = []
    for finding in _findings(folder, config):
        found.append(finding)
        if not as_json:
            console.out().print(_row(finding))
    if as_json:
        console.print_json([asdict(finding) for finding in found])
    return 1 if any(finding.level is Level.FAIL for finding in found) else 0


def _findings(folder: Path, config: Path | None) -> Iterator[Finding]:
    yield from checks.python()
    try:
        at = target.find(folder=folder, config=config)
    except CommandError as problem:
        yield Finding(Level.FAIL, "target", *_split(str(problem), ": "))
        yield from checks.ports()
        return
    yield Finding(Level.OK, "target", str(at))
    for line in at.differences():
        yield Finding(Level.OK, "target", line)
    for wrong in at.wrong_addresses():
        yield Finding(Level.FAIL, "target", wrong, "correct the variable")
    for what, check in checks.OF_A_TARGET.items():
        yield from _safely(what, check, at)


def _safely(what: str, check: Callable[[Target], Iterable[Finding]], at: Target) -> Iterator[Finding]:
    try:
        yield from _in_time(lambda: list(check(at)))
    except TimeoutError:
        fix = "the service hangs or is unreachable: check the findings above, and the service's own health"
        yield Finding(Level.FAIL, what, f"no answer within {DEADLINE:.0f} s", fix)
    except CommandError as problem:
        said, fix = _split(str(problem), "; ")
        # Advice to run the doctor is useless here.
        yield Finding(Level.FAIL, what, said, "" if "ragbus doctor" in fix else fix)
    except Exception as odd:  # noqa: BLE001 - a failing check must not hide the others
        yield Finding(Level.WARN, what, f"the check failed: {odd!r}", "run `ragbus --debug queues` for more")


def _in_time(check: Callable[[], list[Finding]], deadline: float = DEADLINE) -> list[Finding]:
    """The findings of `check`; raises what it raises, and `TimeoutError` after `deadline` seconds.

    In a thread, which is then abandoned, because an SDK that waits for a silent broker cannot be stopped.
    """
    ended: SimpleQueue[list[Finding] | Exception] = SimpleQueue()

    def run() -> None:
        try:
            ended.put(check())
        except Exception as error:  # noqa: BLE001 - raised where it is waited for
            ended.put(error)

    threading.Thread(target=run, daemon=True).start()
    try:
        result = ended.get(timeout=deadline)
    except Empty:
        raise TimeoutError from None
    if isinstance(result, Exception):
        raise result
    return result


def _split(sentence: str, mark: str) -> tuple[str, str]:
    """The fault and the fix in `sentence`; the fix follows the last `mark`."""
    said, found, fix = sentence.rpartition(mark)
    return (said, fix) if found else (sentence, "")


def _row(finding: Finding) -> "Table":
    from rich.table import Table
    from rich.text import Text

    row = Table.grid(padding=(0, 2))
    row.add_column(width=4)
    row.add_column(width=max(map(len, (*checks.OF_A_TARGET, "dead letters"))))
    row.add_column()
    said = Text(console.harmless(finding.said))
    if finding.fix:
        said.append(f"\nfix: {console.harmless(finding.fix)}")
    row.add_row(Text(finding.level.value, style=_COLOURS[finding.level]), finding.what, said)
    return row
