"""The wheel is the whole broker: it installs into an empty environment, and runs there."""

import subprocess
import sys
import venv
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
ALONE = """
import importlib.metadata, urllib.request
from servicebus_local.process import BrokerProcess
from servicebus_local.testing import LocalBus

assert [found.name for found in importlib.metadata.distributions()] == ["servicebus-local"]
with BrokerProcess("--auto-create") as broker:
    assert urllib.request.urlopen(broker.admin_url + "/health").status == 200
with LocalBus("orders") as bus:
    assert bus.counts("orders").active == 0
"""


def run(*command: str | Path) -> str:
    """Run a command, which must succeed; return what it wrote."""
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_wheel_installs_and_runs_alone(tmp_path: Path) -> None:
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    run(*pip, "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", tmp_path, PROJECT)
    [wheel] = tmp_path.glob("servicebus_local-*.whl")
    venv.create(tmp_path / "empty", symlinks=True)
    python = tmp_path / "empty" / "bin" / "python"
    run(*pip, "--python", python, "install", "--quiet", "--no-index", wheel)
    run(python, "-I", "-c", ALONE)
    assert "--strict-emulator" in run(tmp_path / "empty" / "bin" / "servicebus-local", "--help")
