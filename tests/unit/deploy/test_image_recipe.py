"""The image recipes: what goes in, which user runs it, how it is stopped."""

import http.server
import importlib.util
import json
import re
import threading
from collections.abc import Iterator
from fnmatch import fnmatch
from types import ModuleType

import pytest

from tests.support import containers
from tests.support.containers import variables
from tests.support.manifests import DOCKERFILE, ROOT, WORKERS

LINES = re.sub(r"\\\n\s*", "", DOCKERFILE.read_text("utf-8")).splitlines()
FINAL = LINES[max(number for number, line in enumerate(LINES) if line.startswith("FROM ")) :]


def instructions(name: str, lines: list[str] = LINES) -> list[str]:
    return [line.removeprefix(name).strip() for line in lines if line.startswith(f"{name} ")]


def instructions_of(recipe: str, name: str) -> list[str]:
    return containers.instructions(f"deploy/docker/{recipe}", name)


def test_the_base_is_chosen_once() -> None:
    assert instructions("ARG")[0] == "BASE=docker.io/library/python:3.12-slim"
    assert {line.split()[0] for line in instructions("FROM")} == {"${BASE}"}


def test_only_hashed_wheels_are_installed() -> None:
    (install,) = [line for line in instructions("RUN") if " install " in line]
    assert "--require-hashes" in install
    assert "--only-binary :all:" in install
    assert "index-url" not in install


def test_an_image_carries_one_service() -> None:
    copied = {line.split()[0] for line in instructions("COPY") if not line.startswith("--from")}
    assert copied == {
        "requirements/${SERVICE}.txt",
        "services/__init__.py",
        "services/${SERVICE}",
        "shared",
        "deploy/docker/healthcheck.py",
    }


@pytest.mark.parametrize("recipe", ["Dockerfile", "local.Dockerfile"])
def test_the_builder_gets_what_a_recipe_copies(recipe: str) -> None:
    """`.dockerignore` leaves everything out but for what it names."""
    named = [rule[1:] for rule in (ROOT / ".dockerignore").read_text("utf-8").splitlines() if rule.startswith("!")]
    sources = [each.split()[0] for each in instructions_of(recipe, "COPY") if not each.startswith("--from")]
    assert sources
    for source in (variables(each, {"SERVICE": worker}) for each in sources for worker in WORKERS):
        assert (ROOT / source).exists(), source
        assert any(source == name or source.startswith(f"{name}/") or fnmatch(source, name) for name in named), source


def test_the_stand_ins_image_is_made_like_a_workers() -> None:
    (install,) = [line for line in instructions_of("local.Dockerfile", "RUN") if " install " in line]
    assert "--require-hashes" in install
    assert "--only-binary :all:" in install
    assert instructions_of("local.Dockerfile", "ARG") == instructions("ARG")[:1]
    assert instructions_of("local.Dockerfile", "USER") == ["65532:65532"]
    assert instructions_of("local.Dockerfile", "STOPSIGNAL") == ["SIGTERM"]
    assert "PYTHONUNBUFFERED=1" in instructions_of("local.Dockerfile", "ENV")[0]


@pytest.mark.parametrize("worker", WORKERS)
def test_every_worker_has_what_the_recipe_copies(worker: str) -> None:
    assert (ROOT / "requirements" / f"{worker}.txt").is_file()
    assert (ROOT / "services" / worker / "__main__.py").is_file()


def test_it_does_not_run_as_root_and_gets_sigterm() -> None:
    assert instructions("USER", FINAL) == ["65532:65532"]
    assert instructions("STOPSIGNAL", FINAL) == ["SIGTERM"]
    (entry,) = instructions("ENTRYPOINT", FINAL)
    *_, script = json.loads(entry)
    assert script.startswith("exec python -m services."), (
        "without exec the shell is process 1 and keeps SIGTERM from Python"
    )
    assert "PYTHONUNBUFFERED=1" in " ".join(instructions("ENV", FINAL))


def test_nothing_of_the_machine_goes_to_the_builder() -> None:
    lines = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    assert "!requirements/*.txt" in rules
    assert not [rule for rule in rules if rule.startswith("!") and rule.strip("!/.") in ("", "git", "tests", "env")]


# -- the health check that containers run


@pytest.fixture(scope="module")
def healthcheck() -> ModuleType:
    spec = importlib.util.spec_from_file_location("healthcheck", ROOT / "deploy/docker/healthcheck.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def server() -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/healthz" else 503)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            return

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as serving:
        thread = threading.Thread(target=serving.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{serving.server_port}"
        serving.shutdown()
        thread.join()


def test_healthy_is_200_and_nothing_else(healthcheck: ModuleType, server: str) -> None:
    assert healthcheck.healthy(f"{server}/healthz")
    assert not healthcheck.healthy(f"{server}/readyz")
    assert not healthcheck.healthy("http://127.0.0.1:1/healthz")


def test_it_asks_once_when_it_has_no_patience(healthcheck: ModuleType, server: str) -> None:
    assert healthcheck.becomes_healthy(f"{server}/healthz", 0)
    assert not healthcheck.becomes_healthy(f"{server}/readyz", 0)
