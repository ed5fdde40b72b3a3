"""The tenant scope: what one caller may read. Every search goes through it."""

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
        """Whether a document of `tenant`, readable by `groups`, is visible; no common group: it is not."""
        return tenant == self.tenant and not self.groups.isdisjoint(groups)

    def acl_class(self) -> str:
        """Callers of one class see the same documents; part of every cache key. A group's name may contain any
        character."""
        return json.dumps(sorted(self.groups))
