"""The tenant scope: which documents one caller may read. Every search applies it."""

import json
from dataclasses import dataclass

from shared.contracts.request import Request


@dataclass(frozen=True, slots=True)
class TenantScope:
    """A tenant and the groups of a caller in it. No groups: nothing is readable."""

    tenant: str
    groups: frozenset[str]

    def __post_init__(self) -> None:
        if not self.tenant:
            raise ValueError("a scope needs a tenant; an empty one would match every document without one")

    @classmethod
    def of(cls, request: Request) -> "TenantScope":
        """The scope of an admitted request."""
        return cls(request.tenant, frozenset(request.groups))

    def may_read(self, tenant: str, groups: frozenset[str]) -> bool:
        """Whether this scope may read a document of `tenant` that `groups` may read; without a common group, no."""
        return tenant == self.tenant and not self.groups.isdisjoint(groups)

    def acl_class(self) -> str:
        """The groups as text: callers with equal classes read the same documents. Part of every cache key.

        As JSON, because a group's name may contain any character.
        """
        return json.dumps(sorted(self.groups))
