"""Failures on request: rules that say which calls go wrong, how, and how often."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from local.llm.misbehaviours import MISBEHAVIOURS, NONE, Misbehaviour

ANY = "*"


@dataclass(frozen=True)
class Fault:
    """One rule; a field at its default has no effect. Latencies and `retry_after` in seconds.

    Which calls: those to `deployment`, of `kind`, with `question` in their question; each with `probability`, drawn
    from `seed`; `times`: how many, None: until the rules are cleared. `fault`: a name from the table of misbehaviours.
    The other fields are for what has a number or a text: `says` instead of the answer, `repeat`: how often the answer
    is repeated, whatever max_tokens says.
    """

    deployment: str = ANY
    kind: str = ANY  # chat, embeddings
    question: str = ""
    probability: float = 1.0
    seed: int = 0
    times: int | None = None
    fault: str | None = None
    status: int | None = None
    code: str | None = None
    message: str | None = None
    retry_after: float | None = None
    latency: float = 0.0
    cut_stream_after: int | None = None
    chunk_latency: float = 0.0
    hang: bool = False
    malformed: bool = False
    says: str | None = None
    repeat: int | None = None

    @property
    def name(self) -> str | None:
        """That of the misbehaviour, or the field that has the main effect; None for a rule without effect."""
        effects = {
            "hang": self.hang,
            "status": self.status not in (None, 200),
            "malformed": self.malformed,
            "says": self.says is not None,
            "repeat": self.repeat is not None,
            "cut_stream": self.cut_stream_after is not None,
            "latency": self.latency > 0,
            "chunk_latency": self.chunk_latency > 0,
        }
        return self.fault or next((name for name, applies in effects.items() if applies), None)

    @property
    def misbehaviour(self) -> Misbehaviour:
        """What happens beside the fields."""
        name = self.fault or ("hang" if self.hang else "broken-json" if self.malformed else None)
        return MISBEHAVIOURS[name] if name else NONE

    def concerns(self, deployment: str, kind: str, question: str) -> bool:
        """Whether it applies to a call of this deployment and kind."""
        return self.deployment in (ANY, deployment) and self.kind in (ANY, kind) and self.question in question


NOTHING = Fault()


class Faults:
    """The rules in force, in order; the first that concerns a call, is drawn and is not used up decides."""

    def __init__(self, rules: Sequence[Fault] = ()) -> None:
        self.set(rules)

    def set(self, rules: Sequence[Fault]) -> None:
        """Replace all rules; their draws begin anew."""
        self._rules = [(rule, rule.times) for rule in rules]
        self._draws = [random.Random(rule.seed) for rule in rules]  # noqa: S311 - repeatable on purpose

    def next(self, deployment: str, kind: str, question: str = "") -> Fault:
        """The rule for this call, counted once more; `NOTHING` when none applies."""
        for position, (rule, left) in enumerate(self._rules):
            if left == 0 or not rule.concerns(deployment, kind, question):
                continue
            if self._draws[position].random() < rule.probability:
                self._rules[position] = (rule, None if left is None else left - 1)
                return rule
        return NOTHING

    def left(self) -> list[dict[str, Any]]:
        """The rules in force as JSON: their fields that are not the default, and the calls left as `times`."""
        return [
            {each.name: value for each in fields(rule) if (value := getattr(rule, each.name)) != each.default}
            | {"times": left}
            for rule, left in self._rules
            if left != 0
        ]


def parse(content: object) -> list[Fault]:
    """Rules from parsed JSON: a list of objects, or one object. Raises `ValueError` that names the wrong field."""
    rules = [content] if isinstance(content, Mapping) else content
    if not isinstance(rules, list):
        raise ValueError("faults are a list of rules")
    return [_rule(rule) for rule in rules]


_NUMBERS: dict[str, tuple[type, ...]] = {
    "status": (int,), "times": (int,), "cut_stream_after": (int,), "repeat": (int,), "seed": (int,),
    "retry_after": (int, float), "latency": (int, float), "chunk_latency": (int, float), "probability": (int, float),
}  # fmt: skip
_SWITCHES = ("hang", "malformed")


def _rule(rule: object) -> Fault:
    if not isinstance(rule, Mapping):
        raise ValueError("a rule is an object")
    known = {field.name for field in fields(Fault)}
    for name, value in rule.items():
        if name not in known:
            raise ValueError(f"unknown field {name!r}; known: {', '.join(sorted(known))}")
        if value is not None and not _fits(name, value):
            raise ValueError(f"{name} cannot be {value!r}")
    if (fault := rule.get("fault")) is not None and fault not in MISBEHAVIOURS:
        raise ValueError(f"unknown fault {fault!r}; `python -m local.llm --list-faults` shows their names")
    given = {name: value for name, value in rule.items() if value is not None}
    return Fault(**given)


def _fits(name: str, value: object) -> bool:
    if name in _SWITCHES:
        return isinstance(value, bool)
    if name in _NUMBERS:
        return isinstance(value, _NUMBERS[name]) and not isinstance(value, bool) and value >= 0  # type: ignore[operator]
    return isinstance(value, str)
