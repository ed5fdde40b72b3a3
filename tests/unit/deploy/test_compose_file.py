"""`docker-compose.yml` against the code and against the emulator's limits."""

import json
import re
from typing import Any

import pytest

from services.indexer.sources import Sources
from shared.access.callers import Callers
from shared.contracts.queues import DEAD, longest_deadline, shortest_window, topology, within_emulator
from tests.support.manifests import ROOT, WORKERS, compose, default, image_environment, known_to

SERVICES: dict[str, Any] = compose()["services"]
OURS = (*WORKERS, "llm", "seed", "servicebus-ready")
EMULATOR_CONNECTIONS = 10
UPSTREAM_APP = 1


def environment(service: str) -> dict[str, str]:
    return dict(SERVICES[service].get("environment", {}))


def host_path(volume: str) -> str:
    return volume.split(":")[0]


@pytest.mark.parametrize("worker", WORKERS)
def test_what_a_worker_is_told_it_reads(worker: str) -> None:
    assert set(environment(worker)) <= known_to(worker)


def test_together_the_workers_leave_the_emulator_a_connection_for_an_app() -> None:
    held = [int(environment(worker)["RAGBUS_BUS_CONNECTIONS"]) for worker in WORKERS]
    assert sum(held) + UPSTREAM_APP <= EMULATOR_CONNECTIONS


@pytest.mark.parametrize("worker", WORKERS)
def test_a_worker_can_receive_and_send_within_its_connections(worker: str) -> None:
    """A receiver for each queue it listens to (it looks into the last two in turn), and at least one to send with."""
    callers = Callers.read(ROOT / "deploy/compose/callers.yaml")
    queues = topology(callers.ingresses(), callers.reply_queues())
    receivers = [queue for queue in queues if queue.consumer == worker and queue.name != DEAD]
    assert int(environment(worker)["RAGBUS_BUS_CONNECTIONS"]) > len(receivers)


def test_nothing_is_scaled_or_named_so_that_it_could_not_be_two() -> None:
    assert not [name for name in WORKERS if "deploy" in SERVICES[name] or "scale" in SERVICES[name]]


def test_the_gateway_knows_how_long_the_emulator_remembers() -> None:
    callers = Callers.read(ROOT / "deploy/compose/callers.yaml")
    queues = map(within_emulator, topology(callers.ingresses(), callers.reply_queues()))
    window = shortest_window(queues)
    assert float(environment("gateway")["RAGBUS_DUPLICATE_WINDOW"]) == window.total_seconds()
    assert longest_deadline(window).total_seconds() > 180


def test_licences_and_password_are_the_users_own() -> None:
    for service in ("servicebus", "mssql"):
        assert environment(service)["ACCEPT_EULA"].startswith("${ACCEPT_EULA:?")
        assert environment(service)["MSSQL_SA_PASSWORD"].startswith("${MSSQL_SA_PASSWORD:?")


def test_every_installation_makes_a_cache_secret_of_its_own() -> None:
    assert environment("gateway")["RAGBUS_CACHE_SECRET"].startswith("${RAGBUS_CACHE_SECRET:?")
    made = 'echo "RAGBUS_CACHE_SECRET=$(openssl rand -hex 32)" > .env'
    for file in ("docker-compose.yml", "deploy/README.md"):
        text = (ROOT / file).read_text("utf-8")
        assert text.index("umask 077") < text.index(made) < text.index("docker compose up")
    assert ".env" in (ROOT / ".gitignore").read_text("utf-8").splitlines()


@pytest.mark.parametrize("service", OURS)
def test_what_is_ours_is_hardened(service: str) -> None:
    spec = SERVICES[service]
    assert spec["read_only"] is True
    assert spec["cap_drop"] == ["ALL"]
    assert spec["security_opt"] == ["no-new-privileges:true"]
    assert any(each.startswith("/tmp") for each in spec["tmpfs"])
    assert "privileged" not in spec


def test_the_pdf_library_can_be_unpacked_and_loaded() -> None:
    """Docker mounts a tmpfs `noexec` unless told otherwise, and the indexer's parser loads a library from there."""
    (tmp,) = SERVICES["indexer"]["tmpfs"]
    assert "exec" in tmp.split(":")[1].split(",")


def test_every_port_is_for_this_machine_only() -> None:
    for service, spec in SERVICES.items():
        for port in spec.get("ports", []):
            assert port.startswith("127.0.0.1:"), f"{service}: {port}"


def test_what_is_mounted_is_there_and_read_only() -> None:
    named = set(compose()["volumes"])
    for service, spec in SERVICES.items():
        for volume in spec.get("volumes", []):
            if host_path(volume) not in named:
                assert volume.endswith(":ro"), f"{service}: {volume}"
                assert (ROOT / host_path(volume)).exists(), f"{service}: {volume}"


@pytest.mark.parametrize("worker", WORKERS)
def test_the_configuration_is_where_the_worker_looks(worker: str) -> None:
    folder = image_environment()["RAGBUS_CONFIG"]
    targets = {volume.split(":")[1] for volume in SERVICES[worker]["volumes"]}
    assert targets == {f"{folder}/{name}" for name in ("callers.yaml", "models.yaml", "sources.yaml", "use_cases")}


@pytest.mark.parametrize("worker", WORKERS)
def test_a_worker_is_not_killed_while_it_keeps_its_promise(worker: str) -> None:
    grace = float(environment(worker).get("RAGBUS_GRACE") or default(worker, "RAGBUS_GRACE"))
    assert seconds(SERVICES[worker]["stop_grace_period"]) >= grace + 50


@pytest.mark.parametrize("worker", WORKERS)
def test_a_worker_is_built_from_the_one_recipe(worker: str) -> None:
    assert SERVICES[worker]["build"]["dockerfile"] == "deploy/docker/Dockerfile"
    assert SERVICES[worker]["build"]["args"] == {"SERVICE": worker}


def test_whoever_is_waited_for_can_say_that_it_is_ready() -> None:
    for service, spec in SERVICES.items():
        for other, how in spec.get("depends_on", {}).items():
            match how["condition"]:
                case "service_healthy":
                    assert "test" in SERVICES[other]["healthcheck"], f"{service} waits for {other}"
                case "service_completed_successfully":
                    assert SERVICES[other]["restart"] == "no"
                case condition:
                    assert (service, condition) == ("servicebus-ready", "service_started")


def test_images_of_others_are_pinned_where_their_makers_pin() -> None:
    """Microsoft publishes the emulator and SQL Server 2022 under moving tags."""
    moving = {name for name, spec in SERVICES.items() if spec["image"].endswith(("latest", ":2022-latest"))}
    assert moving == {"servicebus", "mssql"}
    assert all(":" in spec["image"].rpartition("/")[2] for spec in SERVICES.values())


def test_seed_and_indexer_mean_the_same_lake() -> None:
    assert (
        environment("seed")["RAGBUS_LAKE_CONNECTION_STRING"] == environment("indexer")["RAGBUS_LAKE_CONNECTION_STRING"]
    )
    name, _, key = environment("azurite")["AZURITE_ACCOUNTS"].partition(":")
    assert f"AccountName={name};AccountKey={key};" in environment("seed")["RAGBUS_LAKE_CONNECTION_STRING"]
    containers = {source.container for source in Sources.read(ROOT / "examples/onboarding/sources.yaml").sources}
    assert environment("seed")["RAGBUS_LAKE_CONTAINER"] in containers


def test_the_emulators_configuration_is_the_one_that_is_generated() -> None:
    (volume,) = SERVICES["servicebus"]["volumes"]
    queues = json.loads((ROOT / host_path(volume)).read_text("utf-8"))["UserConfig"]["Namespaces"][0]["Queues"]
    callers = Callers.read(ROOT / "deploy/compose/callers.yaml")
    assert {q["Name"] for q in queues} == {q.name for q in topology(callers.ingresses(), callers.reply_queues())}


def seconds(duration: str) -> float:
    found = re.fullmatch(r"(?:(\d+)m)?(?:(\d+)s)?", duration)
    assert found
    return 60 * int(found[1] or 0) + int(found[2] or 0)
