"""How values meet: comparison, arithmetic and text, with None for what is unknown or NULL.

Microsoft's page on the SQL filter syntax asks for C#'s promotions: whole numbers have 64 bits
and divide into whole numbers, a number with a fraction makes the other one a double, `+` joins
text. Where that page is silent this is stricter SQL-92: NULL makes every operator unknown.
"""

import math
import operator
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

from servicebus_local.amqp.types import Timestamp, Uuid
from servicebus_local.bus.errors import FilterError

Binary = Callable[[Any, Any], Any]


_NUMBERS = (int, float)
_ORDERED = (int, float, str, Timestamp, timedelta)


def equal(left: Any, right: Any) -> bool | None:
    """Say whether two values are the same; values of different kinds are not."""
    if left is None or right is None:
        return None
    if type(left) is type(right):
        return bool(left == right)
    return type(left) in _NUMBERS and type(right) in _NUMBERS and float(left) == float(right)


def different(left: Any, right: Any) -> bool | None:
    """Say whether two values are not the same."""
    same = equal(left, right)
    return None if same is None else not same


def _ordering(symbol: str, holds: Binary) -> Binary:
    def compare(left: Any, right: Any) -> bool | None:
        if left is None or right is None:
            return None
        if type(left) is type(right) and type(left) in _ORDERED:
            return bool(holds(left, right))
        if type(left) in _NUMBERS and type(right) in _NUMBERS:
            return bool(holds(float(left), float(right)))
        raise _unfit(symbol, left, right)

    return compare


COMPARISONS: dict[str, Binary] = {
    "=": equal,
    "<>": different,
    "!=": different,
    "<": _ordering("<", operator.lt),
    "<=": _ordering("<=", operator.le),
    ">": _ordering(">", operator.gt),
    ">=": _ordering(">=", operator.ge),
}

# --------------------------------------------------------------------------- arithmetic


def _arithmetic(symbol: str, whole: Binary, real: Binary, other: Binary) -> Binary:
    """Build an operator from what it does to integers, to doubles and to everything else."""

    def compute(left: Any, right: Any) -> Any:
        if left is None or right is None:
            return None
        if type(left) is int and type(right) is int:
            return wrap(whole(left, right))
        if type(left) in _NUMBERS and type(right) in _NUMBERS:
            return real(float(left), float(right))
        result = other(left, right)
        if result is None:
            raise _unfit(symbol, left, right)
        return result

    return compute


def wrap(value: int) -> int:
    """Keep the lower 64 bits, as unchecked C# does."""
    return (value + (1 << 63)) % (1 << 64) - (1 << 63)


def _quotient(left: int, right: int) -> int:
    if right == 0:
        raise FilterError(f"{left} cannot be divided by zero")
    quotient = abs(left) // abs(right)
    return quotient if (left < 0) == (right < 0) else -quotient


def _remainder(left: int, right: int) -> int:
    return left - right * _quotient(left, right)


def _real_quotient(left: float, right: float) -> float:
    if right != 0:
        return left / right
    return math.nan if left == 0 or math.isnan(left) else math.copysign(math.inf, left) * math.copysign(1, right)


def _real_remainder(left: float, right: float) -> float:
    return math.nan if right == 0 or math.isinf(left) else math.fmod(left, right)


def _plus(left: Any, right: Any) -> Any:
    if type(left) is str or type(right) is str:
        return text(left) + text(right)
    if type(left) is timedelta and type(right) is Timestamp:
        left, right = right, left
    return _in_time(left, right, operator.add) if type(right) is timedelta else None


def _minus(left: Any, right: Any) -> Any:
    if type(left) is Timestamp and type(right) is Timestamp:
        return _in_time(timedelta(), left - right, lambda _, difference: timedelta(milliseconds=difference))
    return _in_time(left, right, operator.sub) if type(right) is timedelta else None


def _in_time(left: Any, right: Any, change: Binary) -> Any:
    """Move a moment or a duration."""
    try:
        if type(left) is Timestamp:
            return Timestamp(change(int(left), right // timedelta(milliseconds=1)))
        return change(left, right) if type(left) is timedelta else None
    except OverflowError as error:
        raise FilterError("a duration is out of range") from error


def _never(_left: Any, _right: Any) -> None:
    return None


ARITHMETIC: dict[str, Binary] = {
    "+": _arithmetic("+", operator.add, operator.add, _plus),
    "-": _arithmetic("-", operator.sub, operator.sub, _minus),
    "*": _arithmetic("*", operator.mul, operator.mul, _never),
    "/": _arithmetic("/", _quotient, _real_quotient, _never),
    "%": _arithmetic("%", _remainder, _real_remainder, _never),
}


def negative(value: Any) -> Any:
    """Change the sign."""
    value = positive(value)
    return wrap(-value) if type(value) is int else None if value is None else -value


def positive(value: Any) -> Any:
    """Return a number or a duration as it is; raises `FilterError` for anything else."""
    if value is None or type(value) in (int, float, timedelta):
        return value
    raise FilterError(f"{_described(value)} has no sign")


# --------------------------------------------------------------------------- text


def text(value: Any) -> str:
    """Write a value the way C# joins it to text; raises `FilterError`."""
    if type(value) is float:
        return str(value).removesuffix(".0")
    if type(value) is Uuid:
        return str(UUID(bytes=bytes(value)))
    if type(value) in (str, bool, int):
        return str(value)
    raise FilterError(f"{_described(value)} cannot be written as text")


def _unfit(symbol: str, left: Any, right: Any) -> FilterError:
    return FilterError(f"'{symbol}' does not apply to {_described(left)} and {_described(right)}")


def _described(value: Any) -> str:
    return f"{_KINDS.get(type(value), 'a value')} ({value!r:.40})"


_KINDS = {
    bool: "a boolean",
    int: "a number",
    float: "a number",
    str: "text",
    Uuid: "an id",
    Timestamp: "a moment",
    timedelta: "a duration",
}
