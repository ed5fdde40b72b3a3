"""HTTP for the checks."""

import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from email.message import Message
from urllib.parse import urlsplit

from ops.errors import CommandError

# Seconds until a service counts as not answering.
PATIENCE = 5.0


@dataclass(frozen=True, slots=True)
class Page:
    """An HTTP response of any status; header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def get(url: str, headers: Mapping[str, str]) -> Page:
    """The response, also an error status; raises `OSError` when there is none, `CommandError` for another scheme."""
    if urlsplit(url).scheme not in ("http", "https"):
        raise CommandError(f"{url} is not an http(s) address")
    request = urllib.request.Request(url, headers=dict(headers))  # noqa: S310 - http or https, see above
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:  # noqa: S310
            return Page(answer.status, _lower(answer.headers), answer.read())
    except urllib.error.HTTPError as refused:
        return Page(refused.code, _lower(refused.headers), refused.read())


def _lower(headers: Message) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}
