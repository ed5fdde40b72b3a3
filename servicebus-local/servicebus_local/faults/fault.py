"""One fault: where it strikes, what it does, how often.

    at        what is hit                       what can be done to it
    attach    a sender or receiver opens        refuse, delay, ignore, drop
    send      a message, or batch, comes in     refuse, delay, ignore, swallow, drop, detach
    delivery  a message goes out                delay, lose-lock, drop, detach
    outcome   a receiver settles a delivery     refuse, delay, ignore, swallow, drop, detach
    request   an operation of $management       refuse, delay, ignore, swallow, drop
    token     a token comes to $cbs             refuse, delay, ignore, drop
    now       whatever is there                 drop, detach, lose-lock, stop-reading, stop-writing

    refuse    it is not done, and the client is told a condition
    delay     it happens some seconds later; what follows on the link waits behind it
    ignore    it is not done, and the client is told nothing
    swallow   it is done, and the client is told nothing
    drop      it is done, and the connection breaks: before the answer, within it, or after it
    detach    it is done and answered, and the link is closed with a condition
    lose-lock the lock ends, at once or some seconds after the delivery

Each of these can happen at Azure's too, or on the way there. So none of them loses a message
that was accepted, or settles one that was not settled; only what is received and deleted at once
can be lost on its way, as it can be there.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from math import inf
from typing import Any, Final, Literal, NamedTuple, get_args

Point = Literal["attach", "send", "delivery", "outcome", "request", "token", "now"]
Action = Literal["refuse", "delay", "ignore", "swallow", "drop", "detach", "lose-lock", "stop-reading", "stop-writing"]
LinkKind = Literal["sender", "receiver", "management"]
Where = Literal["before", "within", "after"]

_POSSIBLE: Final[dict[Point, tuple[Action, ...]]] = {
    "attach": ("refuse", "delay", "ignore", "drop"),
    "send": ("refuse", "delay", "ignore", "swallow", "drop", "detach"),
    "delivery": ("delay", "lose-lock", "drop", "detach"),
    "outcome": ("refuse", "delay", "ignore", "swallow", "drop", "detach"),
    "request": ("refuse", "delay", "ignore", "swallow", "drop"),
    "token": ("refuse", "delay", "ignore", "drop"),
    "now": ("drop", "detach", "lose-lock", "stop-reading", "stop-writing"),
}
_ALWAYS: Final = frozenset({"at", "do", "entity", "container"})
_REPEATED: Final = frozenset({"times", "skip", "lasts"})  # of what waits for something to happen
_OF_POINTS: Final[dict[str, frozenset[str]]] = {
    "attach": _REPEATED | {"link"},
    "request": _REPEATED | {"operation"},
    "now": frozenset(),
}
_OF_ACTIONS: Final[dict[str, frozenset[str]]] = {
    "refuse": frozenset({"condition", "description"}),
    "detach": frozenset({"condition", "description", "link"}),
    "delay": frozenset({"seconds"}),
    "lose-lock": frozenset({"seconds"}),
    "stop-reading": frozenset({"seconds"}),
    "stop-writing": frozenset({"seconds"}),
    "drop": frozenset({"where"}),
}
SERVER_BUSY: Final = "com.microsoft:server-busy"


class FaultError(ValueError):
    """What was asked for is no fault; the message is a sentence that says why."""


class Occasion(NamedTuple):
    """Something a fault may strike at."""

    at: Point
    entity: str
    container: str
    link: LinkKind
    operation: str = ""
    locked: bool = True  # of a delivery: whether there is a lock to lose


@dataclass(eq=False)
class Fault:
    """A fault, and how often it has struck. Raises `FaultError` for what makes no sense."""

    at: Point
    do: Action
    entity: str | None = None  # a path; None for every entity
    container: str = ""  # how the client's container id begins
    link: LinkKind | None = None  # None for senders and receivers
    operation: str | None = None  # of a request, such as renew-lock
    times: int | None = 1  # None until it is removed
    skip: int = 0  # how many are let pass first
    lasts: float | None = None  # seconds until it is removed
    seconds: float = 0.0
    condition: str = SERVER_BUSY
    description: str = "A fault was set: the local broker does as if something had gone wrong."
    where: Where = "before"  # of the answer, or of the delivery
    sequence: int | None = None  # the message whose lock is lost now
    session: str | None = None  # or the session

    id: int = field(default=0, init=False)
    struck: int = field(default=0, init=False)
    over: bool = field(default=False, init=False)
    _passed: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        _check_values(self)
        if self.do not in _POSSIBLE[self.at]:
            raise FaultError(f"at '{self.at}' a fault can {_listed(_POSSIBLE[self.at])}, not {self.do}")
        for name in sorted(self._given() - _useful(self.at, self.do)):
            raise FaultError(f"'{name}' says nothing about '{self.do}' at '{self.at}'")
        if self.do in ("delay", "stop-reading", "stop-writing") and not self.seconds:
            raise FaultError(f"how long is told by 'seconds': '{self.do}' needs it")
        if (self.at, self.do) == ("now", "lose-lock") and self.entity is None:
            raise FaultError("locks are lost in an entity: 'entity' is missing")

    def _given(self) -> set[str]:
        return {each.name for each in fields(self) if each.init and getattr(self, each.name) != each.default}

    def strikes(self, occasion: Occasion) -> bool:
        """Tell whether it strikes now, and count."""
        if self.over or not self.matches(occasion):
            return False
        if self._passed < self.skip:
            self._passed += 1
            return False
        self.struck += 1
        self.over = self.struck == self.times
        return True

    def matches(self, occasion: Occasion) -> bool:
        """Tell whether this is what it is set for."""
        return (
            self.at == occasion.at
            and (self.entity is None or self.entity.strip("/").lower() == occasion.entity.lower())
            and occasion.container.startswith(self.container)
            and self._matches_link(occasion.link)
            and (self.operation is None or occasion.operation.rpartition(":")[2] == self.operation.rpartition(":")[2])
            and (self.do != "lose-lock" or occasion.locked)
        )

    def _matches_link(self, link: LinkKind) -> bool:
        if self.link is not None:
            return self.link == link
        return link != "management" or self.at in ("request", "token")

    def as_json(self) -> dict[str, Any]:
        """Return what was asked for, and what came of it."""
        given = self._given() - {"at", "do"} | ({"times"} if self.at != "now" else set())
        asked = {name: getattr(self, name) for name in ("at", "do", *sorted(given))}
        return {"id": self.id} | asked | {"struck": self.struck, "over": self.over}


def read_fault(given: Any) -> Fault:
    """Make a fault of parsed JSON; raises `FaultError`."""
    if not isinstance(given, Mapping):
        raise FaultError("a fault is an object with the fields 'at' and 'do'")
    known = [each.name for each in fields(Fault) if each.init]
    for name in given:
        if name not in known:
            raise FaultError(f"there is no field '{name}': a fault has {_listed(known)}")
    for name in ("at", "do"):
        if name not in given:
            raise FaultError(f"the field '{name}' is missing")
    return Fault(**given)


def _useful(at: Point, do: Action) -> frozenset[str]:
    useful = _ALWAYS | _OF_POINTS.get(at, _REPEATED) | _OF_ACTIONS.get(do, frozenset())
    return useful | {"sequence", "session"} if (at, do) == ("now", "lose-lock") else useful


# --------------------------------------------------------------------------- the kinds of value


def _check_values(fault: Fault) -> None:
    for name, choices in _CHOICES.items():
        value = getattr(fault, name)
        if value not in choices and not (value is None and name == "link"):
            raise FaultError(f"'{name}' is one of {_listed(choices)}, not {value!r}")
    for name in ("entity", "container", "operation", "condition", "description", "session"):
        value = getattr(fault, name)
        if not isinstance(value, str) and not (value is None and name in _MAY_BE_NONE):
            raise FaultError(f"'{name}' is text, not {value!r}")
    for name, least in _LEAST.items():
        _check_number(fault, name, least)


def _check_number(fault: Fault, name: str, least: int) -> None:
    value = getattr(fault, name)
    if value is None and name in _MAY_BE_NONE:
        return
    kinds = (int, float) if name in _FRACTIONS else (int,)
    if isinstance(value, kinds) and not isinstance(value, bool) and least <= value < inf:
        return
    called = "a number" if name in _FRACTIONS else "a whole number"
    raise FaultError(f"'{name}' is {called}, at least {least}, not {value!r}")


_CHOICES: Final[dict[str, tuple[str, ...]]] = {
    "at": get_args(Point),
    "do": get_args(Action),
    "link": get_args(LinkKind),
    "where": get_args(Where),
}
_LEAST: Final = {"times": 1, "skip": 0, "lasts": 0, "seconds": 0, "sequence": 1}
_FRACTIONS: Final = frozenset({"lasts", "seconds"})
_MAY_BE_NONE: Final = frozenset({"entity", "link", "operation", "times", "lasts", "sequence", "session"})


def _listed(names: Any) -> str:
    return ", ".join(names)
