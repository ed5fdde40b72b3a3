"""What every test of the broker shares."""

import os

import pytest
from hypothesis import settings

from tests.examples import examples

settings.register_profile("ours", examples(100))
settings.load_profile("ours")

# What CI may skip: a schema of Microsoft's, which this repository does not contain.
_MAY_SKIP = ("is not beside this project",)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail the run if a test was skipped in CI, which has node, npm and every version of the SDK."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if not os.environ.get("CI") or reporter is None:  # the processes of xdist have no reporter
        return
    reasons = [report.longreprtext for report in reporter.stats.get("skipped", [])]
    if unexpected := [reason for reason in reasons if not any(allowed in reason for allowed in _MAY_SKIP)]:
        reporter.write_line(f"\n{len(unexpected)} tests were skipped; CI must not skip: {unexpected[0]}", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
