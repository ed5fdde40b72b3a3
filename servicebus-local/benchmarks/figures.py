"""Measured figures and the table they are printed in."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True, slots=True)
class Aim:
    """What a figure should be: at most, or at least, this much."""

    limit: float
    at_least: bool = False

    def kept_by(self, value: float) -> bool:
        """Whether a value is on the right side."""
        return value >= self.limit if self.at_least else value <= self.limit

    def __str__(self) -> str:
        return f"{'≥' if self.at_least else '≤'} {number(self.limit)}"


@dataclass(frozen=True, slots=True)
class Figure:
    """One thing that was measured several times."""

    name: str
    values: Sequence[float]
    unit: str = ""
    aim: Aim | None = None
    note: str = ""

    def row(self) -> tuple[str, ...]:
        """Write name, median, spread, repetitions, aim, whether the median keeps it, and the note."""
        middle = median(self.values)
        kept = "" if self.aim is None else "yes" if self.aim.kept_by(middle) else "**no**"
        spread = f"{number(min(self.values))} … {number(max(self.values))}"
        value = f"{number(middle)} {self.unit}".rstrip()
        return (
            self.name,
            value,
            spread,
            str(len(self.values)),
            "" if self.aim is None else str(self.aim),
            kept,
            self.note,
        )


def number(value: float) -> str:
    """Write a number with as many digits as mean something."""
    size = abs(value)
    return f"{value:,.0f}" if size >= 100 else f"{value:.1f}" if size >= 10 else f"{value:.2f}"


HEAD = ("figure", "median", "lowest … highest", "n", "aim", "kept", "what it is made of")


def table(figures: Iterable[Figure]) -> str:
    """Write a markdown table."""
    rows = [HEAD, ("---", "--:", "--:", "--:", "--:", ":-:", "---"), *(figure.row() for figure in figures)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
