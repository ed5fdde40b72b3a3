"""Which limits hold for a request: its tenant's, its use case's and its caller's.

A use case's budget is what each tenant may spend on it; a caller's is within its tenant's. So all that one request is
checked against belongs to one tenant, and Redis keeps it in one place.
"""

from collections.abc import Mapping, Sequence

from shared.access.callers import Callers
from shared.access.use_cases import UseCase
from shared.contracts.request import Request
from shared.settings.budget import TENANT, Limit, Unit, Window


class Limits:
    """The limits in callers.yaml and the use cases."""

    def __init__(self, callers: Callers, use_cases: Mapping[str, UseCase]) -> None:
        self._tenants = {name: tuple(tenant.limits(TENANT)) for name, tenant in callers.tenants.items()}
        self._use_cases = {
            name: tuple(use_case.budget.limits(f"use_case:{name}")) for name, use_case in use_cases.items()
        }
        self._callers = {
            (caller.tenant, caller.name): tuple(caller.budget.limits(f"caller:{caller.name}"))
            for caller in callers.callers
        }

    def of(self, request: Request) -> Sequence[Limit]:
        """Every limit that holds for `request`."""
        return self.named(request.tenant, request.use_case, request.caller)

    def named(self, tenant: str, use_case: str, caller: str) -> Sequence[Limit]:
        """Every limit of what `caller` asks of `use_case`; a tenant that was removed may spend nothing."""
        return (
            *self._tenants.get(tenant, (Limit(TENANT, Unit.TOKENS, Window.MINUTE, 0),)),
            *self._use_cases.get(use_case, ()),
            *self._callers.get((tenant, caller), ()),
        )
