"""`ragbus doctor`: what usually goes wrong, checked in the order in which one thing needs another."""

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

# Of one check, in seconds: to sign in at Azure by trying one kind of identity after another may take a while.
DEADLINE = 20.0
_COLOURS = {Level.OK: "green", Level.WARN: "yellow", Level.FAIL: "red"}


def examine(folder: Path, config: Path | None, *, as_json: bool) -> int:
    """Print each thing as it is found; 1 when something is broken."""
    # The SDK logs a traceback for each attempt to reach a broker that is hung; a finding says it in a line.
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
    for what, check in checks.OF_A_TARGET.items():
        yield from _safely(what, check, at)


def _safely(what: str, check: Callable[[Target], Iterable[Finding]], at: Target) -> Iterator[Finding]:
    try:
        yield from _in_time(lambda: list(check(at)))
    except TimeoutError:
        fix = "what it asked is hung or cannot be reached: look at the findings above, and at that service's own health"
        yield Finding(Level.FAIL, what, f"no answer within {DEADLINE:.0f} s", fix)
    except CommandError as problem:
        said, fix = _split(str(problem), "; ")
        # "Ask the doctor" is no advice from the doctor.
        yield Finding(Level.FAIL, what, said, "" if "ragbus doctor" in fix else fix)
    except Exception as odd:  # noqa: BLE001 - one check that cannot be made must not hide the others
        yield Finding(Level.WARN, what, f"could not be checked: {odd!r}", "ragbus --debug queues may say more")


def _in_time(check: Callable[[], list[Finding]], deadline: float = DEADLINE) -> list[Finding]:
    """What `check` finds; raises what it raises, and `TimeoutError` when it hangs.

    In a thread that is left behind then: an SDK that waits for a silent broker cannot be told to stop.
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
    """What is wrong, and the fix, which stands after the last `mark`; before it may be another program's words."""
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
