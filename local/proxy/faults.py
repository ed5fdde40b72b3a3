"""The faults of a connection as values, and their JSON.

[{"fault": "latency", "seconds": 0.02, "jitter": 0.005}, {"fault": "black-hole", "direction": "down"}]
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from typing import Any, ClassVar, get_type_hints


class Direction(StrEnum):
    """The direction of the bytes: `up` from the client to the target, `down` back."""

    UP = "up"
    DOWN = "down"
    BOTH = "both"

    def covers(self, way: "Direction") -> bool:
        """Whether it includes `way` (up or down)."""
        return self in (Direction.BOTH, way)


class FaultError(ValueError):
    """The description of a fault is wrong; the text says why, and what is valid."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What all faults have in common."""

    name: ClassVar[str]
    direction: Direction = field(default=Direction.BOTH, kw_only=True)

    def __post_init__(self) -> None:
        """Raises `FaultError` for a number that is negative or not finite."""
        for each in fields(self):
            value = getattr(self, each.name)
            if isinstance(value, int | float) and not (math.isfinite(value) and value >= 0):
                raise FaultError(f"{each.name} of {self.name} cannot be {value!r}")


@dataclass(frozen=True, slots=True)
class Latency(Fault):
    """Every byte arrives `seconds` later, give or take up to `jitter` seconds; in order, and as many per second."""

    name: ClassVar[str] = "latency"
    seconds: float = 0.0
    jitter: float = 0.0


@dataclass(frozen=True, slots=True)
class Reset(Fault):
    """Both ends get an RST once `after` more bytes have passed; 0: at once, new connections too."""

    name: ClassVar[str] = "reset"
    after: int = 0


@dataclass(frozen=True, slots=True)
class Truncate(Fault):
    """Both ends get a FIN once `after` more bytes have passed; the rest is discarded."""

    name: ClassVar[str] = "truncate"
    after: int = 0


@dataclass(frozen=True, slots=True)
class BlackHole(Fault):
    """Bytes are lost, and neither end gets an error; connections are accepted and stay open.

    A connection that has lost bytes stays silent in that direction afterwards: TCP has no gaps.
    """

    name: ClassVar[str] = "black-hole"


@dataclass(frozen=True, slots=True)
class HalfOpen(Fault):
    """When one end closes, the other is not told; what that one sends afterwards is lost.

    `up`: the target does not notice that its client closed; `down`: the client does not notice that the target did.
    """

    name: ClassVar[str] = "half-open"


@dataclass(frozen=True, slots=True)
class Refuse(Fault):
    """New connections are refused; open ones continue. Has no direction."""

    name: ClassVar[str] = "refuse"


KNOWN: dict[str, type[Fault]] = {kind.name: kind for kind in (Latency, Reset, Truncate, BlackHole, HalfOpen, Refuse)}


def read_faults(content: object) -> tuple[Fault, ...]:
    """Faults from parsed JSON: a list of objects, or one object. Raises `FaultError`."""
    rules = [content] if isinstance(content, Mapping) else content
    if not isinstance(rules, list):
        raise FaultError("faults are a list of objects")
    return tuple(_read(rule) for rule in rules)


def written(fault: Fault) -> dict[str, Any]:
    """`fault` as JSON has it; the inverse of `read_faults`."""
    return {"fault": fault.name, **asdict(fault)}


def _read(rule: object) -> Fault:
    if not isinstance(rule, Mapping):
        raise FaultError("a fault is an object")
    kind = KNOWN.get(str(rule.get("fault")))
    if kind is None:
        raise FaultError(f"unknown fault {rule.get('fault')!r}; known: {', '.join(KNOWN)}")
    types = get_type_hints(kind)
    known = [each.name for each in fields(kind)]
    values: dict[str, Any] = {}
    for name, value in rule.items():
        if name == "fault":
            continue
        if name not in known:
            raise FaultError(f"{kind.name} has no {name!r}; known: {', '.join(known)}")
        if types[name] is Direction:
            if value not in list(Direction):
                raise FaultError(f"direction is one of {', '.join(Direction)}, not {value!r}")
            values[name] = Direction(str(value))
            continue
        allowed = (int,) if types[name] is int else (int, float)
        if not isinstance(value, allowed) or isinstance(value, bool):
            raise FaultError(f"{name} of {kind.name} cannot be {value!r}")
        values[name] = value
    return kind(**values)
