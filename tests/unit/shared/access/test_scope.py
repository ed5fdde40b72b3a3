"""What a caller may read: documents of its own tenant that one of its groups may read."""

import pytest

from shared.access.scope import TenantScope
from tests.support.builders import a_request


@pytest.mark.parametrize(
    ("tenant", "groups", "readable"),
    [
        ("tessolund", {"staff"}, True),
        ("tessolund", {"hr", "managers"}, True),
        ("tessolund", {"managers"}, False),
        ("tessolund", set(), False),
        ("other", {"staff"}, False),
        ("other", {"managers"}, False),
    ],
)
def test_a_document_is_readable_in_its_own_tenant_by_a_common_group(
    tenant: str, groups: set[str], readable: bool
) -> None:
    assert TenantScope("tessolund", frozenset({"staff", "hr"})).may_read(tenant, frozenset(groups)) is readable


def test_without_groups_nothing_is_readable() -> None:
    assert not TenantScope("tessolund", frozenset()).may_read("tessolund", frozenset({"staff"}))


def test_the_scope_of_a_request_is_its_tenant_and_its_groups() -> None:
    request = a_request(groups=("hr", "staff"))
    assert TenantScope.of(request) == TenantScope(request.tenant, frozenset({"hr", "staff"}))


def test_a_scope_needs_a_tenant() -> None:
    with pytest.raises(ValueError, match="needs a tenant"):
        TenantScope("", frozenset({"staff"}))
