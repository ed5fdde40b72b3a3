"""`docker-compose.yml` against the code; with the file beside it, against the limits of Microsoft's emulator."""

import json
import re
import subprocess
import sys
from typing import Any

import pytest
from servicebus_local.__main__ import DEFAULT_ADMIN_PORT, DEFAULT_PORT

from ops.reference.settings import settings_class
from services.indexer.sources import Sources
from shared.access.callers import Callers
from shared.bus.servicebus import ServiceBus, ServiceBusAddress
from shared.contracts.queues import longest_deadline, shortest_window, topology, within_emulator
from shared.llm.deployments import Deployments
from shared.settings.worker import WorkerSettings
from tests.support.containers import variables
from tests.support.manifests import (
    ROOT,
    WORKERS,
    compose,
    compose_with_microsoft,
    default,
    image_environment,
    known_to,
    microsoft,
)

SERVICES: dict[str, Any] = compose()["services"]
WITH_MICROSOFT: dict[str, Any] = compose_with_microsoft()["services"]
STAND_INS = ("lake", "llm", "vectors", "servicebus", "servicebus-ready", "redis")
EMULATOR_CONNECTIONS = 10
# To send, and to receive.
UPSTREAM_APP = 2


def environment(service: str, services: dict[str, Any] = WITH_MICROSOFT) -> dict[str, str]:
    return dict(services[service].get("environment", {}))


def host_path(volume: str) -> str:
    return volume.split(":")[0]


@pytest.mark.parametrize("services", [SERVICES, WITH_MICROSOFT], ids=["ours", "microsoft"])
@pytest.mark.parametrize("worker", WORKERS)
def test_a_worker_reads_every_variable_that_compose_sets(worker: str, services: dict[str, Any]) -> None:
    assert set(environment(worker, services)) <= known_to(worker)


@pytest.mark.parametrize("services", [SERVICES, WITH_MICROSOFT], ids=["ours", "microsoft"])
@pytest.mark.parametrize("worker", WORKERS)
async def test_the_values_are_valid(worker: str, services: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    shell = {"RAGBUS_CACHE_SECRET": "0123456789abcdef"}
    given = {name: variables(value, shell) for name, value in environment(worker, services).items()}
    for name, value in {**image_environment(), **given}.items():
        monkeypatch.setenv(name, value)
    loaded = settings_class(worker).load()
    assert isinstance(loaded, WorkerSettings)
    await ServiceBus(ServiceBusAddress(given["RAGBUS_SERVICEBUS_CONNECTION_STRING"], None)).close()
    Deployments.read(ROOT / "examples/onboarding/models.yaml", given)


def test_the_whole_system_is_made_of_our_own_images() -> None:
    assert set(SERVICES) == {*WORKERS, *STAND_INS}
    for name, spec in SERVICES.items():
        assert spec["image"].startswith("ragbus/"), name
        assert "dockerfile" in spec["build"], name


@pytest.mark.parametrize("service", STAND_INS)
def test_the_command_of_a_stand_in_exists(service: str) -> None:
    spec = SERVICES[service]
    words = [*spec.get("entrypoint", ["python", "-m"]), *spec.get("command", [])]
    if words[:2] == ["python", "-m"]:
        help_of = subprocess.run([sys.executable, "-m", words[2], "--help"], capture_output=True, text=True, check=True)
        options = [word for word in words if word.startswith("--")]
        assert [option for option in options if option not in help_of.stdout] == []
    else:
        assert words[:2] == ["python", "/healthcheck.py"] or words[0] == "valkey-server"


def test_workers_find_the_stand_ins_where_they_listen() -> None:
    assert "Endpoint=sb://servicebus;" in environment("gateway", SERVICES)["RAGBUS_SERVICEBUS_CONNECTION_STRING"]
    assert environment("retriever", SERVICES)["RAGBUS_QDRANT_URL"] == "http://vectors:6333"
    for service in ("llm", "vectors", "servicebus", "redis"):
        assert "0.0.0.0" in [*SERVICES[service].get("entrypoint", ()), *SERVICES[service].get("command", ())]
    assert "RAGBUS_LAKE_FOLDER" not in environment("indexer", SERVICES)
    (mounted,) = SERVICES["lake"]["volumes"]
    assert [volume.split(":")[0] for volume in SERVICES["indexer"]["volumes"]].count(mounted.split(":")[0]) == 1


def test_together_the_workers_leave_the_emulator_two_connections_for_an_app() -> None:
    held = []
    for worker in WORKERS:
        address = environment(worker)["RAGBUS_SERVICEBUS_CONNECTION_STRING"]
        found = re.search(r";MaxConnections=(\d+);$", address)
        assert found is not None
        assert address.startswith("Endpoint=sb://emulator;")
        held.append(int(found[1]))
    assert min(held) >= 2, "one to receive on, one to send on"
    assert sum(held) + UPSTREAM_APP <= EMULATOR_CONNECTIONS
    assert "MaxConnections" not in environment("seed")["RAGBUS_SERVICEBUS_CONNECTION_STRING"]


def test_the_stand_ins_that_microsofts_file_replaces_do_not_run() -> None:
    gone = {name for name, spec in WITH_MICROSOFT.items() if spec.get("deploy", {}).get("replicas") == 0}
    assert gone == {"lake", "servicebus", "vectors"}
    assert set(microsoft()["services"]) - set(SERVICES) == {"seed", "emulator", "mssql", "azurite", "qdrant"}


def test_no_worker_is_scaled() -> None:
    assert not [name for name in WORKERS if "deploy" in WITH_MICROSOFT[name] or "scale" in WITH_MICROSOFT[name]]


def test_the_gateway_has_the_emulators_duplicate_window() -> None:
    callers = Callers.read(ROOT / "deploy/compose/callers.yaml")
    queues = map(within_emulator, topology(callers.ingresses(), callers.reply_queues()))
    window = shortest_window(queues)
    assert float(environment("gateway")["RAGBUS_DUPLICATE_WINDOW"]) == window.total_seconds()
    assert longest_deadline(window).total_seconds() > 180


def test_licences_and_password_are_the_users_own() -> None:
    for service in ("emulator", "mssql"):
        assert environment(service)["ACCEPT_EULA"].startswith("${ACCEPT_EULA:?")
        assert environment(service)["MSSQL_SA_PASSWORD"].startswith("${MSSQL_SA_PASSWORD:?")


def test_every_installation_makes_a_cache_secret_of_its_own() -> None:
    assert environment("gateway")["RAGBUS_CACHE_SECRET"].startswith("${RAGBUS_CACHE_SECRET:?")
    made = 'echo "RAGBUS_CACHE_SECRET=$(openssl rand -hex 32)" > .env'
    for file in ("docker-compose.yml", "deploy/README.md"):
        text = (ROOT / file).read_text("utf-8")
        assert text.index("umask 077") < text.index(made) < text.index("docker compose up")
    assert ".env" in (ROOT / ".gitignore").read_text("utf-8").splitlines()


@pytest.mark.parametrize("service", [*WORKERS, *STAND_INS, "seed"])
def test_what_is_ours_is_hardened(service: str) -> None:
    spec = WITH_MICROSOFT[service]
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
    for service, spec in WITH_MICROSOFT.items():
        for port in spec.get("ports", []):
            assert port.startswith("127.0.0.1:"), f"{service}: {port}"


def test_a_published_port_is_one_that_its_service_listens_on() -> None:
    """Of ours: the port in its command, or the default of a command that names none."""
    defaults = {
        "gateway": {str(default("gateway", "RAGBUS_HTTP_PORT")), image_environment()["RAGBUS_HEALTH_PORT"]},
        "servicebus": {str(DEFAULT_PORT), str(DEFAULT_ADMIN_PORT)},
        "redis": {"6379"},
    }
    for service, spec in SERVICES.items():
        words = spec.get("command", [])
        named = {words[place + 1] for place, word in enumerate(words) if word == "--port"}
        for port in spec.get("ports", []):
            assert port.rpartition(":")[2] in (named or defaults[service]), f"{service}: {port}"


def test_what_is_mounted_is_there_and_read_only() -> None:
    named = set(compose_with_microsoft()["volumes"])
    for service, spec in WITH_MICROSOFT.items():
        for volume in spec.get("volumes", []):
            if host_path(volume) not in named:
                assert volume.endswith(":ro"), f"{service}: {volume}"
                assert (ROOT / host_path(volume)).exists(), f"{service}: {volume}"


@pytest.mark.parametrize("worker", WORKERS)
def test_the_configuration_is_where_the_worker_looks(worker: str) -> None:
    folder = image_environment()["RAGBUS_CONFIG"]
    targets = {volume.split(":")[1] for volume in SERVICES[worker]["volumes"]}
    lake = {f"{folder}/handbook"} if worker == "indexer" else set[str]()
    names = ("callers.yaml", "models.yaml", "sources.yaml", "use_cases")
    assert targets == lake | {f"{folder}/{name}" for name in names}


@pytest.mark.parametrize("worker", WORKERS)
def test_compose_waits_for_a_workers_grace_period(worker: str) -> None:
    grace = float(environment(worker).get("RAGBUS_GRACE") or default(worker, "RAGBUS_GRACE"))
    assert seconds(SERVICES[worker]["stop_grace_period"]) >= grace + 50


@pytest.mark.parametrize("worker", WORKERS)
def test_a_worker_is_built_from_the_one_recipe(worker: str) -> None:
    assert SERVICES[worker]["build"]["dockerfile"] == "deploy/docker/Dockerfile"
    assert SERVICES[worker]["build"]["args"] == {"SERVICE": worker}


def test_a_service_that_others_wait_for_has_a_health_check_or_ends() -> None:
    for service, spec in WITH_MICROSOFT.items():
        for other, how in spec.get("depends_on", {}).items():
            match how["condition"]:
                case "service_healthy":
                    assert "test" in WITH_MICROSOFT[other]["healthcheck"], f"{service} waits for {other}"
                case "service_completed_successfully":
                    assert WITH_MICROSOFT[other]["restart"] == "no"
                case condition:
                    assert (service, condition) == ("servicebus-ready", "service_started")


def test_images_of_others_are_pinned_where_their_makers_publish_versions() -> None:
    """Microsoft publishes the emulator and SQL Server 2022 under moving tags."""
    moving = {name for name, spec in WITH_MICROSOFT.items() if spec["image"].endswith(("latest", ":2022-latest"))}
    assert moving == {"emulator", "mssql"}
    assert all(":" in spec["image"].rpartition("/")[2] for spec in WITH_MICROSOFT.values())


def test_seed_and_indexer_use_the_same_lake() -> None:
    assert (
        environment("seed")["RAGBUS_LAKE_CONNECTION_STRING"] == environment("indexer")["RAGBUS_LAKE_CONNECTION_STRING"]
    )
    name, _, key = environment("azurite")["AZURITE_ACCOUNTS"].partition(":")
    assert f"AccountName={name};AccountKey={key};" in environment("seed")["RAGBUS_LAKE_CONNECTION_STRING"]
    containers = {source.container for source in Sources.read(ROOT / "examples/onboarding/sources.yaml").sources}
    assert environment("seed")["RAGBUS_LAKE_CONTAINER"] in containers


@pytest.mark.parametrize("service", ["servicebus", "emulator"])
def test_the_configuration_of_the_queues_is_the_one_that_is_generated(service: str) -> None:
    volume = WITH_MICROSOFT[service]["volumes"][0]
    queues = json.loads((ROOT / host_path(volume)).read_text("utf-8"))["UserConfig"]["Namespaces"][0]["Queues"]
    callers = Callers.read(ROOT / "deploy/compose/callers.yaml")
    assert {q["Name"] for q in queues} == {q.name for q in topology(callers.ingresses(), callers.reply_queues())}


def seconds(duration: str) -> float:
    found = re.fullmatch(r"(?:(\d+)m)?(?:(\d+)s)?", duration)
    assert found
    return 60 * int(found[1] or 0) + int(found[2] or 0)
