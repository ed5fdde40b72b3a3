"""What a chaos run prints: a table of figures, then what broke the guarantee."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from tests.chaos.history import History, Interruption, check, extra_calls, messages, outcomes
from tests.chaos.plugs import Pulled

# Work that is lost on the way ends as `expired`: where many expire, some was lost, or the machine is too slow.
ANSWERED = 0.95
# What a worker's log says of deliveries, and the word for it in the table.
_SAID = {
    "delivery.lock_lost": "locks lost",
    "delivery.left": "left for another worker",
    "delivery.retried": "retried later",
    "delivery.rescheduled": "rescheduled for a quota",
    "delivery.dead_lettered": "dead-lettered",
}


@dataclass(slots=True)
class Logs:
    """What the workers' logs hold that concerns the run as a whole."""

    said: Counter[str] = field(default_factory=Counter)
    delivered: Counter[int] = field(default_factory=Counter)
    """How many deliveries were done, by how often they had failed before."""
    lost: list[Interruption] = field(default_factory=list)
    """Locks that were lost: their work was cancelled, and done again."""
    bugs: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, files: Iterable[Path]) -> "Logs":
        """Look through the logs of workers, each named after its worker."""
        logs = cls()
        for file in files:
            with file.open(encoding="utf-8", errors="replace") as lines:
                for line in lines:
                    logs._see(file.stem, line)
        return logs

    def _see(self, worker: str, line: str) -> None:
        event = _event(line)
        name = event.get("event", "")
        if name in _SAID:
            self.said[_SAID[name]] += 1
        if name == "delivery.done":
            self.delivered[event.get("delivery_count", 0)] += 1
        if name == "delivery.lock_lost":
            at = datetime.fromisoformat(event["timestamp"]).timestamp()
            self.lost.append(Interruption("lock lost", at, worker=worker))
        if name == "worker.bug" or (name == "delivery.dead_lettered" and event.get("reason") == "Crashed"):
            self.bugs.append(f"{worker} met a bug: {event.get('error') or event.get('detail')}")


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that is said of a run."""

    seed: int
    history: History
    pulled: Pulled
    logs: Logs
    duplicates: int
    resent: int
    seconds: float
    leftovers: Mapping[str, Mapping[str, int]]
    deaths: Sequence[str]

    def violations(self) -> list[str]:
        """What must not have happened; nothing in a clean run."""
        found = [*check(self.history), *self.deaths, *self.logs.bugs]
        if self.answered < ANSWERED:
            found.append(f"only {self.answered:.1%} of the requests were answered; {ANSWERED:.0%} should be")
        return found

    @property
    def answered(self) -> float:
        """Which share of the requests was answered."""
        return outcomes(self.history)["answered"] / len(self.history.asked)

    def rows(self) -> Iterator[tuple[str, str]]:
        """The table, row by row."""
        history, pulled = self.history, self.pulled
        yield (
            "requests",
            f"{len(history.asked)}, and {self.duplicates} duplicates; {self.resent} sends repeated by the apps",
        )
        yield "outcomes", f"{_counted(outcomes(history))} ({self.answered:.1%} answered)"
        yield "outcomes that came", str(len(messages(history.replied)))
        yield "kill -9", f"{pulled.killed} of workers at work ({_counted(pulled.kills)})"
        yield "", f"{sum(pulled.starting.values())} of workers that were starting ({_counted(pulled.starting)})"
        yield "faults", f"{_counted(pulled.faults)}; {pulled.stormy / pulled.lasted:.0%} of the time 429"
        yield "model calls paid", f"{len(history.paid)}, {extra_calls(history)} beyond one per request"
        yield "deliveries", f"{_counted(self.logs.said)}"
        yield "done after n failures", _counted({str(n): count for n, count in sorted(self.logs.delivered.items())})
        yield "latest `expired`", _latest(history)
        yield "left in queues", "; ".join(f"{name}: {_counted(left)}" for name, left in self.leftovers.items()) or "-"
        yield "editions of the bulletin", str(pulled.bulletin)
        yield "duration", f"{self.seconds:.0f} s"
        yield "seed", str(self.seed)


def table(rows: Iterable[tuple[str, str]]) -> str:
    """Markdown."""
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])


def _event(line: str) -> dict[str, Any]:
    if not line.startswith("{"):
        return {}
    try:
        found = json.loads(line)
    except ValueError:  # its process was killed while it wrote
        return {}
    return found if isinstance(found, dict) else {}


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items() if count) or "none"


def _latest(history: History) -> str:
    deadlines = {asked.request_id: asked.deadline for asked in history.asked}
    late = [
        reply.at - deadlines[reply.request_id]
        for reply in history.replied
        if reply.outcome == "expired" and reply.request_id in deadlines
    ]
    return f"{max(late):.1f} s after its deadline" if late else "-"
