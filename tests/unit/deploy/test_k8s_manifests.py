"""The manifests against the code: queues, settings, probes, security. Plain YAML, so that it always runs."""

import re
from ipaddress import ip_address, ip_network

import pytest

from services.gateway.ask_consumer import IN_HAND
from shared.access.callers import Callers
from shared.contracts.queues import topology
from shared.errors import SettingsError
from shared.llm.deployments import Deployments
from shared.worker.retry import RetryPolicy
from tests.support.manifests import (
    ROOT,
    WORKERS,
    config_folder,
    container,
    default,
    documents,
    image_environment,
    known_to,
    kustomization,
    leaves,
    literals,
    of_kind,
    own_environment,
    pod,
    read,
    secrets,
)

# Hand back what is left (10 s), close model, Redis and bus (10 s each at the most), flush traces: see
# shared/worker/worker.py and runtime.py.
AFTER_GRACE = 50
# Trigger metadata that the scaler reads: KEDA 2.20, azure_servicebus_scaler.go.
TRIGGER_KEYS = {"namespace", "queueName", "messageCount", "activationMessageCount", "operation", "cloud", "useRegex"}
OPERATED = ("gateway",)
# AKS LocalDNS (for pods and for the node), and Kubernetes' NodeLocal DNSCache.
RESOLVERS = ("169.254.10.10/32", "169.254.10.11/32", "169.254.20.10/32")


def consumed(worker: str) -> set[str]:
    callers = Callers.read(config_folder() / "callers.yaml")
    return {q.name for q in topology(callers.ingresses(), callers.reply_queues()) if q.consumer == worker}


def test_every_file_is_listed_and_every_kind_is_known() -> None:
    kinds = [each["kind"] for each in documents()]
    assert set(kinds) == {
        "Namespace",
        "ServiceAccount",
        "Deployment",
        "ScaledObject",
        "TriggerAuthentication",
        "Service",
        "PodDisruptionBudget",
        "NetworkPolicy",
    }
    for kind in ("ServiceAccount", "Deployment", "ScaledObject"):
        assert set(of_kind(kind)) == set(WORKERS)
    assert set(kustomization()["resources"]) == {
        "namespace.yaml",
        "scaling.yaml",
        "network.yaml",
        *(f"{worker}.yaml" for worker in WORKERS),
    }


# -- queues and scaling


@pytest.mark.parametrize("worker", WORKERS)
def test_a_worker_is_scaled_by_every_queue_where_its_work_waits_and_no_other(worker: str) -> None:
    """What retriever and generator cannot work on yet waits in the ingress queues."""
    ahead = set(Callers.read(config_folder() / "callers.yaml").ingresses())
    triggers = of_kind("ScaledObject")[worker]["spec"]["triggers"]
    queues = [trigger["metadata"]["queueName"] for trigger in triggers]
    expected = consumed(worker) | (ahead if worker in ("retriever", "generator") else set())
    assert sorted(queues) == sorted(expected)


@pytest.mark.parametrize("worker", WORKERS)
def test_triggers_say_only_what_the_scaler_reads(worker: str) -> None:
    for trigger in of_kind("ScaledObject")[worker]["spec"]["triggers"]:
        assert trigger["type"] == "azure-servicebus"
        assert set(trigger["metadata"]) <= TRIGGER_KEYS
        assert {"namespace", "queueName", "messageCount", "activationMessageCount"} <= set(trigger["metadata"])
        assert all(isinstance(value, str) for value in trigger["metadata"].values())
        assert trigger["authenticationRef"]["name"] in of_kind("TriggerAuthentication")


@pytest.mark.parametrize("worker", WORKERS)
def test_a_replica_is_added_when_the_ones_there_are_full(worker: str) -> None:
    """The scaler counts locked messages too, so a target below a worker's concurrency would add idle replicas."""
    concurrency = int(own_environment(worker).get("RAGBUS_CONCURRENCY") or default(worker, "RAGBUS_CONCURRENCY"))
    for trigger in of_kind("ScaledObject")[worker]["spec"]["triggers"]:
        assert int(trigger["metadata"]["messageCount"]) >= concurrency


def test_held_asks_add_no_gateways() -> None:
    """A gateway holds this many asks of each queue until there is a generator for them."""
    ingresses = set(Callers.read(config_folder() / "callers.yaml").ingresses())
    for trigger in of_kind("ScaledObject")["gateway"]["spec"]["triggers"]:
        if trigger["metadata"]["queueName"] in ingresses:
            assert int(trigger["metadata"]["messageCount"]) > 2 * IN_HAND


@pytest.mark.parametrize("worker", WORKERS)
def test_only_the_gateway_keeps_a_replica(worker: str) -> None:
    spec = of_kind("ScaledObject")[worker]["spec"]
    assert spec["minReplicaCount"] == (1 if worker == "gateway" else 0)
    assert spec["maxReplicaCount"] > spec["minReplicaCount"]
    assert spec["scaleTargetRef"] == {"name": worker}
    assert "replicas" not in of_kind("Deployment")[worker]["spec"]


@pytest.mark.parametrize("worker", WORKERS)
def test_no_worker_scales_to_zero_while_retries_are_scheduled(worker: str) -> None:
    """KEDA does not see scheduled messages."""
    spec = of_kind("ScaledObject")[worker]["spec"]
    longest_pause = RetryPolicy().longest.total_seconds()
    assert spec["cooldownPeriod"] > longest_pause
    behavior = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    assert behavior["scaleDown"]["stabilizationWindowSeconds"] > longest_pause
    assert spec["fallback"]["failureThreshold"] >= 1


# -- settings


@pytest.mark.parametrize("worker", WORKERS)
def test_a_worker_reads_every_variable_of_its_manifest(worker: str) -> None:
    assert set(own_environment(worker)) <= known_to(worker)


def test_every_common_setting_is_read_by_a_worker() -> None:
    anybody = set().union(*map(known_to, WORKERS))
    assert set(literals("ragbus-settings")) <= anybody
    assert {name for name in image_environment() if name.startswith("RAGBUS_")} <= anybody


@pytest.mark.parametrize("worker", WORKERS)
def test_a_worker_has_the_settings_it_cannot_start_without(worker: str) -> None:
    told = {*own_environment(worker), *literals("ragbus-settings"), *image_environment()}
    assert {"RAGBUS_SERVICEBUS_NAMESPACE", "RAGBUS_REDIS_URL", "RAGBUS_CONFIG"} <= told
    assert "RAGBUS_SERVICEBUS_CONNECTION_STRING" not in told
    wanted = {name for name in known_to(worker) if name.startswith(("RAGBUS_QDRANT", "RAGBUS_CACHE_SECRET"))}
    assert wanted <= told
    if worker != "gateway":
        assert {"RAGBUS_MODEL_ENDPOINT", "RAGBUS_MODEL_KEY"} <= told


def test_the_namespace_is_the_one_whose_queues_keda_counts() -> None:
    assert not literals("ragbus-settings")["RAGBUS_SERVICEBUS_NAMESPACE"].startswith("sb://")
    assert literals("ragbus-settings")["RAGBUS_SERVICEBUS_NAMESPACE"].endswith(".servicebus.windows.net")
    for trigger in of_kind("ScaledObject")["generator"]["spec"]["triggers"]:
        host = literals("ragbus-settings")["RAGBUS_SERVICEBUS_NAMESPACE"]
        assert host.startswith(trigger["metadata"]["namespace"] + ".")


@pytest.mark.parametrize("worker", WORKERS)
def test_the_configuration_is_where_the_worker_looks(worker: str) -> None:
    (mount,) = [each for each in container(worker)["volumeMounts"] if each["name"] == "config"]
    assert mount["mountPath"] == image_environment()["RAGBUS_CONFIG"]
    assert mount["readOnly"]
    (volume,) = [each for each in pod(worker)["volumes"] if each["name"] == "config"]
    mounted = {item["path"] for item in volume["configMap"]["items"]}
    there = {path.relative_to(config_folder()).as_posix() for path in config_folder().rglob("*.yaml")}
    assert mounted == there
    (generator,) = [each for each in kustomization()["configMapGenerator"] if each["name"] == "ragbus-config"]
    assert {path.removeprefix("config/") for path in generator["files"]} == there


def test_secrets_come_from_a_secret_that_is_not_here() -> None:
    assert not of_kind("Secret")
    for worker in WORKERS:
        for variable in container(worker)["env"]:
            if any(word in variable["name"] for word in ("KEY", "SECRET", "REDIS_URL")):
                assert variable["valueFrom"]["secretKeyRef"]["name"] == "ragbus-secrets"


# Without these a worker would not do its work; what the settings call optional must not keep a pod from starting.
REQUIRED = {"RAGBUS_REDIS_URL", "RAGBUS_CACHE_SECRET"}


@pytest.mark.parametrize("worker", WORKERS)
def test_a_secret_is_required_exactly_where_the_worker_needs_it(worker: str) -> None:
    for name, required in secrets(worker).items():
        assert required == (name in REQUIRED), f"{name}: CreateContainerConfigError, or a worker without it"
    assert secrets(worker)["RAGBUS_REDIS_URL"]
    assert ("RAGBUS_CACHE_SECRET" in secrets(worker)) == (worker == "gateway")


def test_the_readme_lists_every_secret_with_the_workers_that_read_it() -> None:
    """`| redis-url | required | gateway, retriever, generator, indexer | …`"""
    readme = (ROOT / "deploy/README.md").read_text("utf-8")
    for name in set().union(*(secrets(worker) for worker in WORKERS)):
        readers = [worker for worker in WORKERS if name in secrets(worker)]
        key = next(each["valueFrom"] for each in container(readers[0])["env"] if each["name"] == name)
        how = "required" if name in REQUIRED else "optional"
        who = "all" if len(readers) == len(WORKERS) else ", ".join(readers)
        assert f"| `{key['secretKeyRef']['key']}` | {how} | {who} |" in readme
        assert f"{{secretKey: {key['secretKeyRef']['key']}," in readme


def test_the_models_of_the_base_are_reached_by_identity() -> None:
    deployments = Deployments.read(config_folder() / "models.yaml", literals("ragbus-settings")).deployments
    assert not [each.name for each in deployments if each.key_env]
    with pytest.raises(SettingsError, match="RAGBUS_MODEL_ENDPOINT is not set"):
        Deployments.read(config_folder() / "models.yaml", {})


def test_nothing_looks_like_a_secret() -> None:
    suspicious = re.compile(
        r"(AccountKey|SharedAccessKey|password)=|rediss?://[^/\s]*:[^/\s]*@|sk-[A-Za-z0-9]{16}", re.IGNORECASE
    )
    everything = [*documents(), kustomization(), *map(read, sorted(config_folder().rglob("*.yaml")))]
    assert not [(path, value) for each in everything for path, value in leaves(each) if suspicious.search(str(value))]


# -- probes and the end


@pytest.mark.parametrize("worker", WORKERS)
def test_probes_ask_the_health_port(worker: str) -> None:
    ports = {port["name"]: port["containerPort"] for port in container(worker)["ports"]}
    assert ports["health"] == int(image_environment()["RAGBUS_HEALTH_PORT"])
    assert image_environment()["RAGBUS_HEALTH_HOST"] == "0.0.0.0"
    paths = {"startupProbe": "/healthz", "livenessProbe": "/healthz", "readinessProbe": "/readyz"}
    for probe, path in paths.items():
        assert container(worker)[probe]["httpGet"] == {"path": path, "port": "health"}


def test_the_service_points_to_the_http_endpoint() -> None:
    ports = {port["name"]: port["containerPort"] for port in container("gateway")["ports"]}
    assert ports["http"] == default("gateway", "RAGBUS_HTTP_PORT")
    (port,) = of_kind("Service")["gateway"]["spec"]["ports"]
    assert port["targetPort"] == "http"


@pytest.mark.parametrize("worker", WORKERS)
def test_kubernetes_waits_for_a_workers_grace_period(worker: str) -> None:
    grace = float(own_environment(worker).get("RAGBUS_GRACE") or default(worker, "RAGBUS_GRACE"))
    first = container(worker).get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
    assert pod(worker)["terminationGracePeriodSeconds"] >= first + grace + AFTER_GRACE


def test_a_paid_model_call_may_finish() -> None:
    assert float(own_environment("generator")["RAGBUS_GRACE"] or 0) > default("generator", "RAGBUS_MODEL_TIMEOUT")


# -- security: the restricted pod security standard, and a little more


@pytest.mark.parametrize("worker", WORKERS)
def test_pods_are_restricted(worker: str) -> None:
    spec, only = pod(worker), container(worker)
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] == 65532
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert only["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers", "ephemeralContainers"} & set(spec)
    assert all(set(volume) - {"name"} <= {"configMap", "emptyDir", "projected"} for volume in spec["volumes"])
    assert all("hostPort" not in port for port in only["ports"])


def test_the_namespace_enforces_it() -> None:
    assert of_kind("Namespace")["ragbus"]["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


@pytest.mark.parametrize("worker", WORKERS)
def test_a_worker_has_an_identity_in_azure_and_no_rights_in_kubernetes(worker: str) -> None:
    account = of_kind("ServiceAccount")[worker]
    template = of_kind("Deployment")[worker]["spec"]["template"]
    assert pod(worker)["serviceAccountName"] == worker
    assert "azure.workload.identity/client-id" in account["metadata"]["annotations"]
    assert template["metadata"]["labels"]["azure.workload.identity/use"] == "true"
    assert account["automountServiceAccountToken"] is False
    assert pod(worker)["automountServiceAccountToken"] is False


@pytest.mark.parametrize("worker", WORKERS)
def test_no_services_variable_is_read_as_a_setting(worker: str) -> None:
    """A Service `ragbus-http` would set RAGBUS_HTTP_PORT=tcp://…"""
    assert pod(worker)["enableServiceLinks"] is False
    assert not [name for name in of_kind("Service") if name.startswith("ragbus")]


@pytest.mark.parametrize("worker", WORKERS)
def test_resources_are_requested_and_memory_is_limited(worker: str) -> None:
    resources = container(worker)["resources"]
    assert set(resources["requests"]) == {"cpu", "memory"}
    assert "memory" in resources["limits"]


@pytest.mark.parametrize("worker", WORKERS)
def test_labels_select_what_they_should(worker: str) -> None:
    spec = of_kind("Deployment")[worker]["spec"]
    chosen = spec["selector"]["matchLabels"].items()
    assert chosen <= spec["template"]["metadata"]["labels"].items()
    assert container(worker)["image"].startswith(f"ragbus/{worker}:")


def reachable(address: str, port: int) -> bool:
    """Whether a policy lets any worker send to this address."""
    for policy in of_kind("NetworkPolicy").values():
        for rule in policy["spec"].get("egress", []):
            blocks = [peer["ipBlock"] for peer in rule["to"] if "ipBlock" in peer]
            to = any(_in(address, [b["cidr"]]) and not _in(address, b.get("except", [])) for b in blocks)
            if to and any(each["port"] <= port <= each.get("endPort", each["port"]) for each in rule["ports"]):
                return True
    return False


def _in(address: str, networks: list[str]) -> bool:
    return any(ip_address(address) in ip_network(network) for network in networks)


@pytest.mark.parametrize("resolver", RESOLVERS)
def test_names_are_resolved_where_the_node_has_a_resolver_of_its_own(resolver: str) -> None:
    assert reachable(resolver.removesuffix("/32"), 53)
    assert not reachable(resolver.removesuffix("/32"), 80)


@pytest.mark.parametrize(
    ("port", "allowed"), [(443, 1), (5671, 1), (6380, 1), (10000, 1), (8500, 1), (8599, 1), (8600, 0), (15000, 1)]
)
def test_azure_is_reached_on_its_ports_and_the_metadata_service_on_none(port: int, allowed: int) -> None:
    assert reachable("20.1.2.3", port) == bool(allowed)
    assert not reachable("169.254.169.254", port)


def test_the_network_is_closed_except_for_what_is_listed() -> None:
    policies = of_kind("NetworkPolicy")
    shut = policies["default-deny"]["spec"]
    assert shut == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    for policy in policies.values():
        for rule in policy["spec"].get("egress", []):
            assert rule["to"], "an egress rule without a destination allows everything"
            assert rule["ports"]
            for peer in rule["to"]:
                block = peer.get("ipBlock", {})
                if block and block["cidr"] not in RESOLVERS:
                    assert "169.254.0.0/16" in block["except"], "the node's metadata service is open"
        for rule in policy["spec"].get("ingress", []):
            assert rule["from"]
            assert rule["ports"]


@pytest.mark.parametrize("worker", OPERATED)
def test_a_drain_takes_one_at_a_time_and_is_never_blocked(worker: str) -> None:
    budget = of_kind("PodDisruptionBudget")[worker]["spec"]
    assert budget["maxUnavailable"] == 1
    assert budget["selector"]["matchLabels"] == {"app.kubernetes.io/name": worker}
