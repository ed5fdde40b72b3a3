"""What every message has in common: a kind with a version, a JSON body, and one way to read it."""

import json
from typing import Any, ClassVar, NoReturn, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from shared.errors import Reason, Unprocessable
from shared.text import visible

# Levels of arrays and objects; our messages have seven at most.
MAX_DEPTH = 64
TOO_DEEP = f"the JSON is nested deeper than {MAX_DEPTH} levels"

# For texts that people write: invisible characters are removed first, then limits apply.
AS_SEEN = BeforeValidator(lambda value: visible(value) if isinstance(value, str) else value)


class MessagePart(BaseModel):
    """A frozen piece of a message; fields that a reader does not know are ignored."""

    # Without the values in its errors: their text, and so a logged traceback, would quote a question or a passage.
    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    def replaced(self, **changes: object) -> Self:
        """A copy with other values in the fields `changes`, which are validated; `model_copy` would take any.

        Raises `TypeError` for a field that there is not, `ValidationError` for a value of another type.
        """
        unknown = changes.keys() - self.__dict__.keys()
        if unknown:
            raise TypeError(f"{type(self).__name__} has no field {', '.join(sorted(unknown))}")
        return type(self).model_validate(self.__dict__ | changes)


class Message(MessagePart):
    """A message on a queue. `kind` is its name and major version, and travels as the `subject`."""

    kind: ClassVar[str]

    def encode(self) -> bytes:
        """The body as UTF-8 JSON."""
        return self.model_dump_json(exclude_none=True).encode()

    @classmethod
    def decode(cls, body: bytes) -> Self:
        """Read a body; raises `Unprocessable` with `SchemaInvalid` or `PoisonContent`."""
        value = read_json(body)
        if isinstance(value, str):
            # The JavaScript SDK writes a string as a JSON string: what `JSON.stringify` made is then encoded twice.
            raise Unprocessable(
                Reason.SCHEMA_INVALID,
                f"the body is a JSON string, not a JSON object: is your {cls.kind} encoded twice? Give the SDK the "
                "object itself, or bytes",
            )
        try:
            return cls.model_validate(value)
        except ValidationError as invalid:
            raise Unprocessable(Reason.SCHEMA_INVALID, explain(invalid, cls.kind)) from invalid

    @classmethod
    def read(cls, subject: str | None, body: bytes) -> Self:
        """Read a message from a queue for this kind alone; without a `subject` it is taken for one.

        Raises `Unprocessable` like `decode`, and with `SchemaUnsupported` for any other `subject`.
        """
        check_version(subject or cls.kind, cls)
        return cls.decode(body)


def read_json(body: bytes) -> Any:
    """Parse UTF-8 JSON strictly (RFC 8259).

    Raises `Unprocessable`: `SchemaInvalid` if it is not JSON, `PoisonContent` if it is not UTF-8, nested deeper than
    `MAX_DEPTH` or has a lone surrogate.

    A byte order mark, which .NET's default encoding writes, is ignored, as section 8.1 allows.
    """
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as broken:
        raise Unprocessable(Reason.POISON_CONTENT, f"the body is not UTF-8 text: {broken.reason}") from broken
    try:
        value = json.loads(text, parse_constant=_refuse)
    except ValueError as broken:
        raise Unprocessable(Reason.SCHEMA_INVALID, f"the body is not JSON: {broken}") from broken
    except RecursionError as broken:
        raise Unprocessable(Reason.POISON_CONTENT, TOO_DEEP) from broken
    # Fewer brackets than the limit cannot nest deeper than it, so most bodies are not scanned.
    if text.count("[") + text.count("{") > MAX_DEPTH and _too_deep(value):
        raise Unprocessable(Reason.POISON_CONTENT, TOO_DEEP)
    if _has_lone_surrogates(text):
        raise Unprocessable(Reason.POISON_CONTENT, "the JSON has a lone surrogate")
    return value


def explain(invalid: ValidationError, kind: str) -> str:
    """Name the first wrong fields of a message, without quoting what they held."""
    errors = invalid.errors(include_url=False, include_input=False, include_context=False)
    wrong = [f"{'.'.join(str(step) for step in error['loc']) or 'the body'}: {error['msg']}" for error in errors]
    return f"not a valid {kind}: " + "; ".join(wrong[:3])


def check_version(subject: str, *known: type[Message]) -> type[Message]:
    """Choose the class for `subject`; raises `SchemaUnsupported` for a name or version not in `known`."""
    for message in known:
        if message.kind == subject:
            return message
    supported = ", ".join(message.kind for message in known)
    raise Unprocessable(
        Reason.SCHEMA_UNSUPPORTED, f"{subject[:64]!r} is not supported on this queue; send one of: {supported}"
    )


def _refuse(constant: str) -> NoReturn:
    # Python reads NaN and Infinity, which JSON does not have.
    raise ValueError(f"{constant} is not a JSON number")


def _too_deep(value: object) -> bool:
    """Whether a JSON value is nested deeper than `MAX_DEPTH`; level by level, because recursion would meet its own."""
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH):
        nested = [each for each in level if isinstance(each, dict | list)]
        level = [inner for each in nested for inner in (each.values() if isinstance(each, dict) else each)]
        if not level:
            return False
    return True


def _has_lone_surrogates(text: str) -> bool:
    if "\\u" not in text:
        return False
    try:
        json.dumps(json.loads(text), ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False
