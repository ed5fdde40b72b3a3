"""CI skips nothing that it should have: without node, npm or an SDK the run fails instead of testing less."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

PROJECT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("ci", "reason", "status"),
    [
        ("true", "node is not here: the JavaScript SDK was not tried", 1),
        ("true", "the emulator's schema is not beside this project", 0),
        ("", "node is not here: the JavaScript SDK was not tried", 0),
    ],
)
def test_a_skipped_test_fails_the_run_in_ci_only(tmp_path: Path, ci: str, reason: str, status: int) -> None:
    module = tmp_path / "test_skipped.py"
    module.write_text(f"import pytest\ndef test_it():\n    pytest.skip({reason!r})\n")
    options = ("-p", "tests.conftest", "-p", "no:cacheprovider", "-n", "1", "-c", PROJECT / "pyproject.toml")
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *options, module],
        env=os.environ | {"CI": ci, "PYTHONPATH": str(PROJECT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert run.returncode == status, run.stdout + run.stderr
    assert "1 skipped" in run.stdout
