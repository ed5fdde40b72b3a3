"""The rules of a subscription: a filter that chooses messages, and perhaps an action that changes them.

TrueFilter · FalseFilter    all messages, none
CorrelationFilter           equality with some properties
SqlFilter                   a condition (`servicebus_local.bus.sql`)
SqlAction                   SET and REMOVE, applied to the copy a subscription gets

The SQL is imported by the first rule that has some: most brokers start without it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Final

from servicebus_local.amqp.types import DecodeError
from servicebus_local.bus.errors import FilterError, InvalidArgument
from servicebus_local.bus.properties import Properties, plain

if TYPE_CHECKING:
    from servicebus_local.bus.sql import Condition, Statement

__all__ = [
    "CorrelationFilter",
    "FalseFilter",
    "Filter",
    "Rule",
    "SqlAction",
    "SqlFilter",
    "TrueFilter",
]

NAME_LIMIT: Final = 50  # characters of a rule's name, as Azure's quotas have it


@dataclass(frozen=True)
class TrueFilter:
    """Chooses every message."""

    expression: ClassVar[str] = "1=1"
    """What the administration API says instead."""

    def matches(self, _properties: Properties) -> bool:
        """Choose the message."""
        return True


@dataclass(frozen=True)
class FalseFilter:
    """Chooses no message."""

    expression: ClassVar[str] = "1=0"
    """What the administration API says instead."""

    def matches(self, _properties: Properties) -> bool:
        """Choose nothing."""
        return False


@dataclass(frozen=True)
class SqlFilter:
    """Chooses messages for which a condition is true, not false and not unknown.

    Parameters are values for the names the expression writes with an `@`, which the keys may have
    too. Raises `InvalidArgument` when the expression is no condition or a parameter has no value.
    """

    expression: str
    parameters: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        _ = self._condition

    @cached_property
    def _condition(self) -> "Condition":
        from servicebus_local.bus.sql import compile_filter

        return compile_filter(self.expression, self.parameters)

    def matches(self, properties: Properties) -> bool:
        """Evaluate the condition; raises `FilterError` when that is not possible."""
        try:
            return self._condition(properties) is True
        except DecodeError as error:
            raise _unreadable(error) from error


@dataclass(frozen=True)
class CorrelationFilter:
    """Chooses messages whose properties equal all of these; None and empty text ask for nothing.

    The case of values counts, that of names does not; numbers are equal whatever their type, and
    never equal to text.
    """

    correlation_id: str | None = None
    message_id: str | None = None
    to: str | None = None
    reply_to: str | None = None
    label: str | None = None
    session_id: str | None = None
    reply_to_session_id: str | None = None
    content_type: str | None = None
    properties: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def matches(self, properties: Properties) -> bool:
        """Compare; raises `FilterError` when the message's properties cannot be read."""
        from servicebus_local.bus.sql import equal

        try:
            return all(equal(properties.system(name), value) for name, value in self._system) and all(
                equal(properties.get(name), value) for name, value in self._user
            )
        except DecodeError as error:
            raise _unreadable(error) from error

    @cached_property
    def _system(self) -> list[tuple[str, str]]:
        wanted = {
            "correlationid": self.correlation_id,
            "messageid": self.message_id,
            "to": self.to,
            "replyto": self.reply_to,
            "label": self.label,
            "sessionid": self.session_id,
            "replytosessionid": self.reply_to_session_id,
            "contenttype": self.content_type,
        }
        return [(name, value) for name, value in wanted.items() if value]

    @cached_property
    def _user(self) -> list[tuple[str, Any]]:
        return [(name, plain(value)) for name, value in self.properties.items()]


Filter = TrueFilter | FalseFilter | SqlFilter | CorrelationFilter


@dataclass(frozen=True)
class SqlAction:
    """Changes the properties of a chosen message.

    Raises `InvalidArgument` when the expression has no statements or a parameter has no value.
    """

    expression: str
    parameters: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        _ = self._statements

    @cached_property
    def _statements(self) -> "list[Statement]":
        from servicebus_local.bus.sql import compile_action

        return compile_action(self.expression, self.parameters)

    def apply(self, bare: bytes, broker: Mapping[str, Any] | None = None) -> bytes:
        """Return the bare message after all statements, each of which sees what those before it did.

        `broker` is as in `Properties.of`. Raises `FilterError`, and then nothing has changed.
        """
        try:
            for statement in self._statements:
                bare = statement(Properties.of(bare, broker))
        except DecodeError as error:
            raise _unreadable(error) from error
        except InvalidArgument as error:
            raise FilterError(error.description) from error
        return bare


def _unreadable(error: DecodeError) -> FilterError:
    return FilterError(f"the message's properties cannot be read: {error}")


@dataclass(frozen=True)
class Rule:
    """A named filter and the action for what it chooses; raises `InvalidArgument` for a name too long."""

    name: str
    filter: Filter
    action: SqlAction | None = None
    created_at: float = field(default=0.0, compare=False)  # seconds since the Unix epoch

    def __post_init__(self) -> None:
        if not 1 <= len(self.name) <= NAME_LIMIT:
            raise InvalidArgument(f"a rule's name has 1 to {NAME_LIMIT} characters, '{self.name:.60}' does not")
