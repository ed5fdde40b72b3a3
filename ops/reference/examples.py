"""The example in `examples/onboarding`, as compose and Kubernetes are configured with it."""

import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import yaml

from ops.reference.text import NOTICE, Files
from shared.access.callers import Callers
from shared.contracts.queues import Queue, longest_deadline, shortest_window, topology, within_emulator

EXAMPLE = "examples/onboarding"
CALLERS, MODELS, SOURCES = (f"{EXAMPLE}/{name}.yaml" for name in ("callers", "models", "sources"))
USE_CASES = f"{EXAMPLE}/use_cases"
COMPOSE = "deploy/compose"
KUBERNETES = "deploy/k8s/base/config"
# A round figure below what the emulator's duplicate window allows (see `longest_deadline`).
COMPOSE_DEADLINE = timedelta(minutes=3)
FOR_EMULATOR = "within the emulator's limits: one caller, deadlines that its duplicate window holds"
FOR_CLUSTER = "without the laptop's own keys and addresses"
# What is the laptop's own in the models file, and what its comment says instead.
_LAPTOP_MODEL = re.compile(r"^ *key_env: .*\n|:-http://127\.0\.0\.1:\d+(?=})", re.MULTILINE)
_LAPTOP_COMMENT = re.compile(r"^# On a laptop .*$", re.MULTILINE)
_BY_IDENTITY = (
    "# They are reached with the workers' own identities; with a key, add `key_env: RAGBUS_MODEL_KEY` to each."
)


def only_first(callers: Callers) -> Callers:
    """The installation with its first caller alone."""
    first = callers.callers[0]
    return Callers(tenants={first.tenant: callers.tenants[first.tenant]}, callers=(first,))


def without_keys(callers: Callers) -> Callers:
    """The installation with its HTTP endpoint shut: the example's keys are printed in the documentation."""
    shut = tuple(caller.model_copy(update={"api_keys": ()}) for caller in callers.callers)
    return Callers(tenants=callers.tenants, callers=shut)


def queues_of(callers: Callers) -> tuple[Queue, ...]:
    """Every queue of the installation."""
    return topology(callers.ingresses(), callers.reply_queues())


def reply_queues_of(callers: Callers) -> dict[str, str]:
    """The first reply queue, by ingress queue."""
    return {caller.queue: caller.reply_queues[0] for caller in callers.callers if caller.queue}


def files(callers: Callers, texts: Mapping[str, str]) -> Files:
    """The configuration of compose and of Kubernetes; `texts`: the example's files."""
    # The emulator's duplicate window must hold the longest deadline of each use case.
    most = longest_deadline(shortest_window(map(within_emulator, topology((), ()))))
    longest = min(COMPOSE_DEADLINE, most).total_seconds()

    def shortened(use_case: str) -> str:
        return re.sub(r"(\blongest: *)([\d.]+)", lambda found: f"{found[1]}{min(float(found[2]), longest):g}", use_case)

    use_cases = {path: shortened(text) for path, text in texts.items() if path.startswith(USE_CASES)}
    compose = {CALLERS: _callers(only_first(callers)), **use_cases}
    # Without keys; and without defaults, so that an endpoint that is not set stops a worker.
    models = _LAPTOP_COMMENT.sub(_BY_IDENTITY, _LAPTOP_MODEL.sub("", texts[MODELS]))
    kubernetes = {**texts, CALLERS: _callers(without_keys(callers)), MODELS: models}
    return _copies(COMPOSE, compose, FOR_EMULATOR) | _copies(KUBERNETES, kubernetes, FOR_CLUSTER)


def _callers(callers: Callers) -> str:
    content: dict[str, Any] = callers.model_dump(mode="json", exclude_defaults=True)
    return yaml.safe_dump(content, sort_keys=False, width=110)


def _copies(folder: str, texts: Mapping[str, str], how: str) -> Files:
    return {path.replace(EXAMPLE, folder): f"# From {path}, {how}.\n# {NOTICE}\n{text}" for path, text in texts.items()}
