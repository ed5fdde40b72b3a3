"""Reading JSON bodies strictly: an unknown field is refused, never ignored. Everything here raises `Refusal`."""

import json
from collections.abc import Set as AbstractSet
from typing import Any

from pydantic_core import from_json

from local.vectors.errors import Refusal, unsupported, wrong

Json = Any


def decode(raw: bytes) -> Json:
    """The JSON of a request body. pydantic-core reads the numbers of an upsert six times as fast as `json`."""
    try:
        return from_json(raw, allow_inf_nan=False)
    except ValueError as error:
        raise Refusal(400, f"Format error in JSON body: {error}") from error


def encode(value: Json) -> bytes:
    """The JSON of a response body."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def fields(body: Json, where: str, known: AbstractSet[str]) -> dict[str, Json]:
    """The fields of the object `body` that are not null, all of them `known`; `where` names it in a refusal."""
    if not isinstance(body, dict):
        raise wrong(f"{where} must be an object, not {type(body).__name__}")
    if unknown := body.keys() - known:
        raise unsupported(f"{', '.join(f'`{name}`' for name in sorted(unknown))} in {where}")
    return {name: value for name, value in body.items() if value is not None}


def entry(body: Json, where: str, known: AbstractSet[str]) -> tuple[str, Json]:
    """Name and value of the only field of the object `body`."""
    found = fields(body, where, known)
    if len(found) != 1:
        raise wrong(f"{where} needs exactly one of {', '.join(sorted(known))}")
    return next(iter(found.items()))


def listed(value: Json, where: str) -> list[Json]:
    """`value`, which must be a list."""
    if not isinstance(value, list):
        raise wrong(f"{where} must be a list, not {type(value).__name__}")
    return value


def as_list(value: Json) -> list[Json]:
    """`value` as a list: where Qdrant takes a list, it also takes a single element."""
    return value if isinstance(value, list) else [value]


def number(fields: dict[str, Json], name: str, default: int, *, least: int = 0) -> int:
    """The field `name`, or `default`; a whole number of at least `least`."""
    value = fields.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise wrong(f"{name} must be a whole number of at least {least}, not {value!r}")
    return value
