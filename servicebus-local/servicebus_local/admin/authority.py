"""Who may administer: a client whose token has the right to manage what the request names."""

from collections.abc import Callable

from servicebus_local.bus.access import Keys
from servicebus_local.bus.errors import Unauthorized
from servicebus_local.bus.topology import Right

Authorize = Callable[[str | None, str], None]
"""Checks that a credential may manage what is at a path; raises `Unauthorized`."""


def managers(keys: Keys) -> Authorize:
    """Let those through who can sign with a policy that may manage, of the namespace or of the entity.

    The function it returns raises `Unauthorized`.
    """

    def authorize(token: str | None, path: str) -> None:
        if not token:
            raise Unauthorized(
                "MissingToken: The request has no header 'Authorization' with a shared access signature."
            )
        if Right.MANAGE not in keys.check(token, path).rights:
            raise Unauthorized(f"InvalidClaim: The token gives no right to manage '{path or 'the namespace'}'.")

    return authorize


def allow_all(_token: str | None, _path: str) -> None:
    """Allow every request."""
