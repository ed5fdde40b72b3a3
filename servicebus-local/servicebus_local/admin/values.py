"""The kinds of value a description has: how they are read, what they may be, how they are written.

Reading raises `ValueError` with a sentence about the value; who reads it says which property it is.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from math import inf
from typing import Any, Final
from urllib.parse import unquote

from servicebus_local.admin.durations import read_seconds, write_seconds
from servicebus_local.admin.xml import boolean
from servicebus_local.bus.errors import InvalidArgument

MEGABYTE: Final = 1024 * 1024
DEFAULT_MEGABYTES: Final = 1024
# 1 to 5 GB, and what a partitioned entity or Premium may have: 80 GB at most (Azure's quotas)
_MEGABYTES: Final = frozenset(1024 * gigabytes for gigabytes in (1, 2, 3, 4, 5, 10, 16, 20, 32, 40, 48, 64, 80))

# Azure's quotas: learn.microsoft.com/azure/service-bus-messaging/service-bus-quotas
PATH_LIMIT: Final = 260  # characters in the path of a queue or topic
NAME_LIMIT: Final = 50  # characters in the name of a subscription or rule (the same)
# Azure's rules for resource names, which want a letter or digit at both ends; it takes an underscore at the end too.
_PATH: Final = re.compile(r"[A-Za-z0-9](?:[\w.\-~/]*[A-Za-z0-9_])?", re.ASCII)
_NAME: Final = re.compile(r"[A-Za-z0-9](?:[\w.\-]*[A-Za-z0-9_])?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of value."""

    read: Callable[[str], Any]
    write: Callable[[Any], str | None]  # None for what is left out


def duration(lowest: float, highest: float = inf) -> Kind:
    """Return the kind for durations within bounds, in seconds; `read` raises `ValueError`."""

    def read(text: str) -> float:
        seconds = read_seconds(text)
        if not lowest <= seconds <= highest:
            raise ValueError(
                f"{text} is not between {write_seconds(lowest)} and {write_seconds(highest)}, as it must be"
            )
        return seconds

    return Kind(read, write_seconds)


def integer(lowest: int, highest: int) -> Kind:
    """Return the kind for whole numbers within bounds; `read` raises `ValueError`."""

    def read(text: str) -> int:
        number = _whole(text)
        if not lowest <= number <= highest:
            raise ValueError(f"{number} is not between {lowest} and {highest}, as it must be")
        return number

    return Kind(read, str)


def choice(values: type[Enum]) -> Kind:
    """Return the kind for words of a list; `read` raises `ValueError`."""

    def read(text: str) -> Enum:
        try:
            return values(text.strip())
        except ValueError:
            words = ", ".join(str(value.value) for value in values)
            raise ValueError(f"'{text[:40]}' is none of {words}") from None

    return Kind(read, lambda value: str(value.value))


def text(limit: int) -> Kind:
    """Return the kind for text that is not longer than this; none and empty are the same."""

    def read(written: str) -> str | None:
        if len(written) > limit:
            raise ValueError(f"the text has {len(written)} characters, {limit} is the most")
        return written or None

    return Kind(read, lambda value: value)


def _whole(written: str) -> int:
    if not re.fullmatch(r"\s*[+-]?\d{1,18}\s*", written, re.ASCII):
        raise ValueError(f"'{written[:40]}' is not a whole number")
    return int(written)


def _read_boolean(written: str) -> bool:
    word = written.strip().lower()
    if word not in ("true", "false", "1", "0"):
        raise ValueError(f"'{written[:40]}' is neither true nor false")
    return word in ("true", "1")


def _read_megabytes(written: str) -> float:
    number = _whole(written)
    if number not in _MEGABYTES:
        raise ValueError(f"{number} is none of {', '.join(map(str, sorted(_MEGABYTES)))}")
    return float(number * MEGABYTE)


def _write_megabytes(size: float) -> str:
    return str(DEFAULT_MEGABYTES if size == inf else round(size / MEGABYTE))


def _read_target(written: str) -> str | None:
    """Read where to forward to: a name, or the URL of an entity, as the SDKs make one of it."""
    path = written.strip()
    if "://" in path:
        path = unquote(path.partition("://")[2].partition("/")[2])
    return entity_path(path.strip("/")) if written.strip() else None


TRUTH: Final = Kind(_read_boolean, boolean)
MEGABYTES: Final = Kind(_read_megabytes, _write_megabytes)
TARGET: Final = Kind(_read_target, lambda name: name)


def checked(check: Callable[[str], str], name: str) -> str:
    """Return a name after a check; raises `InvalidArgument` where the check raises `ValueError`."""
    try:
        return check(name)
    except ValueError as error:
        raise InvalidArgument(f"{error}.") from error


def entity_path(path: str) -> str:
    """Check the path of a queue or topic; raises `ValueError`."""
    if len(path) > PATH_LIMIT:
        raise ValueError(f"a path of {len(path)} characters is longer than {PATH_LIMIT}")
    if not _PATH.fullmatch(path) or "//" in path:
        raise ValueError(
            f"'{path[:60]}' is not the path of a queue or topic: it has letters, digits, '.', '-', '_', '~' and '/', "
            "and begins and ends with a letter or digit"
        )
    return path


def entity_name(name: str) -> str:
    """Check the name of a subscription or rule; raises `ValueError`."""
    if len(name) > NAME_LIMIT:
        raise ValueError(f"a name of {len(name)} characters is longer than {NAME_LIMIT}")
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"'{name[:60]}' is not a name: it has letters, digits, '.', '-' and '_', "
            "and begins and ends with a letter or digit"
        )
    return name
