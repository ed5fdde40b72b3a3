"""Strict validation with other people's schemas and tools, where they are at hand; each skip says what is missing."""

import copy
import importlib.util
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft7Validator, Draft202012Validator

from tests.support.manifests import BASE, DATA, DEV, compose, compose_with_microsoft, documents, microsoft, of_kind

KUBERNETES_VERSIONS = ("1.30", "1.33", "1.35")
KEDA = "keda.sh/v1alpha1"


def beside(name: str) -> Path:
    path = DATA / name
    if not path.is_file():
        pytest.skip(f"{name} is not beside this project (../shared/data); the plain checks ran all the same")
    return path


def crd(name: str) -> Draft202012Validator:
    """A CRD's schema made strict: a field that it does not know is an error."""
    definition = yaml.safe_load(beside(name).read_text("utf-8"))
    schema = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    strict(schema)
    schema["properties"]["metadata"] = {"type": "object"}
    return Draft202012Validator(schema)


def strict(place: Any) -> None:
    match place:
        case dict():
            if "properties" in place and not place.get("x-kubernetes-preserve-unknown-fields"):
                place.setdefault("additionalProperties", False)
            for value in place.values():
                strict(value)
        case list():
            for value in place:
                strict(value)


def test_scaled_objects_are_what_keda_takes() -> None:
    validator = crd("keda.sh_scaledobjects.yaml")
    for each in of_kind("ScaledObject").values():
        validator.validate(each)


def test_a_misspelt_field_would_be_noticed() -> None:
    validator = crd("keda.sh_scaledobjects.yaml")
    wrong = copy.deepcopy(of_kind("ScaledObject")["generator"])
    wrong["spec"]["coolDownPeriod"] = wrong["spec"].pop("cooldownPeriod")
    assert not validator.is_valid(wrong)


def test_trigger_authentications_are_what_keda_takes() -> None:
    validator = crd("keda.sh_triggerauthentications.yaml")
    for each in of_kind("TriggerAuthentication").values():
        validator.validate(each)


def test_triggers_are_what_the_scaler_takes() -> None:
    scalers = json.loads(beside("keda-scalers-schema.json").read_text("utf-8"))["scalers"]
    known = {scaler["type"]: {each["name"] for each in scaler["parameters"]} for scaler in scalers}
    for each in of_kind("ScaledObject").values():
        for trigger in each["spec"]["triggers"]:
            assert set(trigger["metadata"]) <= known[trigger["type"]]


def test_compose_is_what_the_specification_takes() -> None:
    schema = json.loads(beside("compose-spec.schema.json").read_text("utf-8"))
    for file in (compose(), microsoft(), compose_with_microsoft()):
        Draft7Validator({**schema, "$schema": "http://json-schema.org/draft-07/schema#"}).validate(file)


@pytest.mark.parametrize("version", KUBERNETES_VERSIONS)
def test_manifests_are_what_kubernetes_takes(version: str) -> None:
    if importlib.util.find_spec("kubernetes_validate") is None:
        pytest.skip("kubernetes-validate is not installed (108 MB of schemas: pip install kubernetes-validate)")
    validate(documents(), version)


@pytest.mark.parametrize("folder", [BASE, DEV], ids=["base", "dev"])
def test_kustomize_builds_it(folder: Path) -> None:
    built = kustomize(folder)
    assert len([each for each in built if each["kind"] == "Deployment"]) == 4
    names = {each["metadata"]["name"] for each in built if each["kind"] == "ConfigMap"}
    assert len(names) == 2
    for each in built:
        if each["kind"] == "Deployment":
            used = each["spec"]["template"]["spec"]
            assert used["containers"][0]["envFrom"][0]["configMapRef"]["name"] in names
            assert used["volumes"][0]["configMap"]["name"] in names
            assert each["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/part-of"] == "ragbus"
    if importlib.util.find_spec("kubernetes_validate") is not None:
        validate([each for each in built if each["apiVersion"] != KEDA], KUBERNETES_VERSIONS[0])


def test_an_overlay_says_once_which_installation_it_is() -> None:
    installation = yaml.safe_load((DEV / "installation.yaml").read_text("utf-8"))["data"]
    built = kustomize(DEV)
    for each in built:
        match each["kind"]:
            case "ScaledObject":
                assert {t["metadata"]["namespace"] for t in each["spec"]["triggers"]} == {installation["serviceBus"]}
                assert each["spec"]["maxReplicaCount"] == 2
            case "ServiceAccount":
                identity = each["metadata"]["annotations"]["azure.workload.identity/client-id"]
                assert identity == installation[f"{each['metadata']['name']}Identity"]
            case "ConfigMap" if each["metadata"]["name"].startswith("ragbus-settings"):
                assert each["data"]["RAGBUS_SERVICEBUS_NAMESPACE"].startswith(installation["serviceBus"] + ".")
                left = [name for name, value in each["data"].items() if "ragbus-example" in value]
                assert left == [], "of the base's installation, which does not exist"
    assert not [each for each in built if each["metadata"]["name"] == "installation"]


def kustomize(folder: Path) -> list[Any]:
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl is not installed: `kubectl kustomize` was not run")
    done = subprocess.run([kubectl, "kustomize", str(folder)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def validate(resources: list[Any], version: str) -> None:
    validator = importlib.import_module("kubernetes_validate")
    for each in resources:
        if each["apiVersion"] != KEDA:
            validator.validate(each, version, strict=True)
