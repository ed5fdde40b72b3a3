"""The deployment files as data, for the tests beside this. Each is read once; copy before you change."""

import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from ops.reference import settings
from ops.reference.examples import KUBERNETES, MODELS

ROOT = Path(__file__).resolve().parents[2]
BASE = ROOT / "deploy/k8s/base"
DEV = ROOT / "deploy/k8s/overlays/dev"
DATA = ROOT.parent / "shared" / "data"
DOCKERFILE = ROOT / "deploy/docker/Dockerfile"
WORKERS = settings.WORKERS

Document = dict[str, Any]


@functools.cache
def documents() -> list[Document]:
    """Every resource of the base, as it is written."""
    files = (path for path in sorted(BASE.glob("*.yaml")) if path.name != "kustomization.yaml")
    return [each for path in files for each in yaml.safe_load_all(path.read_text("utf-8")) if each]


@functools.cache
def of_kind(kind: str) -> dict[str, Document]:
    """The resources of a kind, by name."""
    return {each["metadata"]["name"]: each for each in documents() if each["kind"] == kind}


def kustomization() -> Document:
    """The base's own."""
    return read(BASE / "kustomization.yaml")


def compose() -> Document:
    """`docker-compose.yml`, merged as YAML merges."""
    return read(ROOT / "docker-compose.yml")


def microsoft() -> Document:
    """The file that puts Microsoft's emulator, Azurite and Qdrant in the places of our stand-ins."""
    return read(ROOT / "deploy/compose/microsoft.yml")


def compose_with_microsoft() -> Document:
    """Both files as `docker compose -f … -f …` merges what they have: mappings by key, anything else is replaced."""

    def merged(base: Any, over: Any) -> Any:
        if not isinstance(base, dict) or not isinstance(over, dict):
            return over
        return base | {key: merged(base[key], value) if key in base else value for key, value in over.items()}

    whole: Document = merged(compose(), microsoft())
    return whole


@functools.cache
def read(path: Path) -> Document:
    """One YAML document."""
    document: Document = yaml.safe_load(path.read_text("utf-8"))
    return document


def pod(worker: str) -> Document:
    """The pod of a worker's Deployment."""
    spec: Document = of_kind("Deployment")[worker]["spec"]["template"]["spec"]
    return spec


def container(worker: str) -> Document:
    """The one container of a worker's pod."""
    (only,) = pod(worker)["containers"]
    return dict(only)


def literals(generator: str) -> dict[str, str]:
    """What a ConfigMap is generated from."""
    for each in kustomization()["configMapGenerator"]:
        if each["name"] == generator:
            return dict(literal.split("=", 1) for literal in each["literals"])
    raise KeyError(generator)


def own_environment(worker: str) -> dict[str, str | None]:
    """The variables that a worker's manifest names; None: the value comes from a Secret."""
    return {each["name"]: each.get("value") for each in container(worker)["env"]}


def secrets(worker: str) -> dict[str, bool]:
    """The variables that come from the Secret, and whether the worker cannot start without the key that is there."""
    refs = {each["name"]: each["valueFrom"]["secretKeyRef"] for each in container(worker)["env"] if "valueFrom" in each}
    return {name: not ref.get("optional", False) for name, ref in refs.items()}


@functools.cache
def known_to(worker: str) -> set[str]:
    """The variables that a worker reads: its settings, and what the example's models file refers to."""
    models = settings.models_variables((ROOT / MODELS).read_text("utf-8"))
    return set(settings.variables(settings.settings_class(worker))) | set(models)


def default(worker: str, name: str) -> Any:
    """The default of a worker's setting."""
    return settings.variables(settings.settings_class(worker))[name].get_default(call_default_factory=True)


def image_environment() -> dict[str, str]:
    """The variables that the image sets."""
    text = DOCKERFILE.read_text("utf-8").rpartition("\nENV ")[2].partition("\nWORKDIR")[0]
    return dict(re.findall(r"(\w+)=(\S+)", text))


def config_folder() -> Path:
    """What Kubernetes is configured with."""
    return ROOT / KUBERNETES


def leaves(place: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every value with its path."""
    match place:
        case dict():
            for key, value in place.items():
                yield from leaves(value, f"{path}.{key}")
        case list():
            for number, value in enumerate(place):
                yield from leaves(value, f"{path}[{number}]")
        case _:
            yield path, place
