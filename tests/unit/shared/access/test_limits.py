"""Which limits hold for a request, by callers.yaml and the use cases."""

from pathlib import Path

from shared.access.callers import Callers
from shared.access.limits import Limits
from shared.settings.budget import TENANT, Limit, Unit, Window
from tests.support.builders import a_request, a_use_case

FILE = """
tenants:
  tessolund: {tokens_per_minute: 7}
  larkfield: {budget: {tokens: {day: 50, month: 900}, usd: {minute: 0.000001, day: 20, month: 300.5}}}
callers:
  - {name: welcome-app, tenant: tessolund, budget: {tokens: {day: 5}, usd: {month: 1.5}}}
  - {name: welcome-web, tenant: tessolund}
"""
USE_CASES = {"onboarding": a_use_case(budget={"usd": {"day": 2}}), "travel": a_use_case(name="travel")}


def limits(tmp_path: Path) -> Limits:
    file = tmp_path / "callers.yaml"
    file.write_text(FILE)
    return Limits(Callers.read(file), USE_CASES)


def test_a_request_is_limited_by_its_tenant_its_use_case_and_its_caller(tmp_path: Path) -> None:
    assert limits(tmp_path).of(a_request()) == (
        Limit(TENANT, Unit.TOKENS, Window.MINUTE, 7),
        Limit("use_case:onboarding", Unit.USD, Window.DAY, 2_000_000),
        Limit("caller:welcome-app", Unit.TOKENS, Window.DAY, 5),
        Limit("caller:welcome-app", Unit.USD, Window.MONTH, 1_500_000),
    )
    other = a_request(use_case="travel", caller="welcome-web")
    assert limits(tmp_path).of(other) == (Limit(TENANT, Unit.TOKENS, Window.MINUTE, 7),)


def test_each_window_of_tokens_and_money_is_a_limit_in_whole_millionths(tmp_path: Path) -> None:
    assert set(limits(tmp_path).of(a_request(tenant="larkfield", use_case="travel"))) == {
        Limit(TENANT, Unit.TOKENS, Window.DAY, 50),
        Limit(TENANT, Unit.TOKENS, Window.MONTH, 900),
        Limit(TENANT, Unit.USD, Window.MINUTE, 1),
        Limit(TENANT, Unit.USD, Window.DAY, 20_000_000),
        Limit(TENANT, Unit.USD, Window.MONTH, 300_500_000),
    }


def test_the_caller_of_another_tenant_is_another_caller(tmp_path: Path) -> None:
    found = limits(tmp_path).of(a_request(tenant="larkfield", caller="welcome-app", use_case="travel"))
    assert {limit.scope for limit in found} == {TENANT}


def test_a_tenant_that_was_removed_may_spend_nothing(tmp_path: Path) -> None:
    assert limits(tmp_path).of(a_request(tenant="gone", use_case="gone", caller="gone")) == (
        Limit(TENANT, Unit.TOKENS, Window.MINUTE, 0),
    )


def test_a_budget_changes_no_answer_and_so_no_cache_key() -> None:
    assert USE_CASES["onboarding"].version() == a_use_case().version()
