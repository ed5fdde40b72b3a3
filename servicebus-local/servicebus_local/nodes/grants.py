"""What the credentials shown on one connection allow, for as long as each is valid."""

from collections.abc import Collection
from math import inf
from typing import Final

from servicebus_local.bus.access import Access, covers
from servicebus_local.bus.clock import Clock
from servicebus_local.bus.errors import QuotaExceeded, Unauthorized
from servicebus_local.bus.topology import Right

MOST_TOKENS: Final = 1000  # of a connection, as Azure has it
SEND: Final = frozenset({Right.SEND})
LISTEN: Final = frozenset({Right.LISTEN})
LISTEN_OR_MANAGE: Final = frozenset({Right.LISTEN, Right.MANAGE})
ANY: Final = frozenset(Right)


class Grants:
    """The rights of a connection, by path. A newer token for the same path takes the place of the older."""

    def __init__(self, wall_clock: Clock) -> None:
        self._wall_clock = wall_clock
        self._granted: dict[str, Access] = {}
        self.next_expiry = inf

    def add(self, access: Access) -> None:
        """Take in what a credential allows; raises `QuotaExceeded` when there are too many already."""
        if len(self._granted) >= MOST_TOKENS and access.path.lower() not in self._granted:
            raise QuotaExceeded(f"The maximum number of {MOST_TOKENS} tokens per connection has been reached.")
        self._granted[access.path.lower()] = access
        self._find_next_expiry()

    def allow(self, path: str, wanted: Collection[Right]) -> bool:
        """Tell whether one of these rights is granted at a path."""
        return any(
            covers(access.path, path) and not access.rights.isdisjoint(wanted) for access in self._granted.values()
        )

    def require(self, path: str, wanted: Collection[Right]) -> None:
        """Raise `Unauthorized` unless one of these rights is granted at a path."""
        if self.allow(path, wanted):
            return
        known = any(covers(access.path, path) for access in self._granted.values())
        raise Unauthorized(needed(path, wanted) + ("" if known else " No token was shown for it."))

    def expire(self) -> bool:
        """Forget what is not valid any more; tell whether that was anything."""
        now = self._wall_clock()
        if now < self.next_expiry:
            return False
        self._granted = {path: access for path, access in self._granted.items() if access.expires_at > now}
        self._find_next_expiry()
        return True

    def _find_next_expiry(self) -> None:
        self.next_expiry = min((access.expires_at for access in self._granted.values()), default=inf)


def needed(path: str, wanted: Collection[Right]) -> str:
    """Name the rights that would do, in a sentence close to Azure's, so that a search for it finds help."""
    names = " or ".join(f"'{right.value}'" for right in Right if right in wanted)
    return f"Unauthorized access. {names} claim(s) are required to perform this operation. Resource: '{path}'."
