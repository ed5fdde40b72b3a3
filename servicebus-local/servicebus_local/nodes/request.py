"""A management request: the map in its body, with the checks that every operation needs."""

from collections.abc import Mapping
from typing import Any, Final

from servicebus_local.amqp.types import Array, Described
from servicebus_local.bus.errors import InvalidArgument

_REQUIRED: Final = object()
_CALLED: Final[dict[type, str]] = {
    bool: "a boolean",
    bytes: "binary",
    dict: "a map",
    int: "an integer",
    str: "a string",
}


class Request:
    """What was asked, and the name of the receiver's link it was asked for, if one was told."""

    def __init__(self, body: Any, link_name: str | None = None) -> None:
        if not isinstance(body, dict):
            raise InvalidArgument("The body of a management request must be a map.")
        self.body: Mapping[Any, Any] = body
        self.link_name = link_name

    def get(self, name: str, kind: type, default: Any = _REQUIRED) -> Any:
        """Return a field of the body, of this kind; without a default it must be there; raises `InvalidArgument`."""
        value = self.body.get(name)
        if value is None:
            if default is _REQUIRED:
                raise InvalidArgument(f"The field '{name}' is missing.")
            return default
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise InvalidArgument(f"The field '{name}' must be {_CALLED[kind]}.")
        return value

    def count(self, name: str, default: Any = _REQUIRED) -> int:
        """Return a number of things that cannot be negative; raises `InvalidArgument`."""
        number: int = self.get(name, int, default)
        if number < 0:
            raise InvalidArgument(f"The field '{name}' must not be negative, it is {number}.")
        return number

    def numbers(self, name: str) -> list[int]:
        """Return an array of integers, at least one."""
        return self._each(name, int, "integers")

    def maps(self, name: str) -> list[dict[Any, Any]]:
        """Return a list of maps, at least one."""
        return self._each(name, dict, "maps")

    def tokens(self) -> list[bytes]:
        """Return the lock tokens, at least one; raises `InvalidArgument`."""
        tokens = [bytes(token) for token in self._each("lock-tokens", bytes, "uuids")]
        if any(len(token) != 16 for token in tokens):
            raise InvalidArgument("The field 'lock-tokens' must be an array of uuids.")
        return tokens

    def properties(self, name: str) -> dict[str, Any]:
        """Return a map of properties as messages have them; it may be missing."""
        return simple_map(self.get(name, dict, {}), name)

    def _each(self, name: str, kind: type, called: str) -> list[Any]:
        values = self.body.get(name)
        if not isinstance(values, list | Array) or not values:
            raise InvalidArgument(f"The field '{name}' must be an array of {called}, and not empty.")
        if not all(isinstance(value, kind) and not isinstance(value, bool) for value in values):
            raise InvalidArgument(f"The field '{name}' must hold {called} only.")
        return list(values)


def simple_map(fields: Mapping[Any, Any], name: str) -> dict[str, Any]:
    """Return a map that can be one of application properties: texts to simple values (AMQP part 3, 3.2.5).

    Raises `InvalidArgument`.
    """
    for key, value in fields.items():
        if not isinstance(key, str) or isinstance(value, dict | list | Described):
            raise InvalidArgument(f"The field '{name}' must map strings to simple values, '{key}' does not.")
    return dict(fields)
