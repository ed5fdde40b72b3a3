"""Whether the deployments' endpoints answer and take our keys."""

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ops.checks.http import get, why
from ops.findings import Finding, Level
from ops.target import Target

if TYPE_CHECKING:
    from shared.llm.deployments import Deployment


def models(at: Target) -> Iterator[Finding]:
    """Whether the deployments' endpoints answer and take our keys."""
    from shared.llm.deployments import Deployments

    seen: set[tuple[str, str | None]] = set()
    for deployment in Deployments.read(at.config / "models.yaml", {**os.environ, **at.variables}).deployments:
        where = (deployment.endpoint, deployment.key_env)
        if where not in seen:
            seen.add(where)
            yield _model(deployment, at)


def _model(deployment: "Deployment", at: Target) -> Finding:
    key = {**os.environ, **at.variables}.get(deployment.key_env or "", "")
    if deployment.key_env and not key:
        return Finding(Level.FAIL, "models", f"{deployment.name}: {deployment.key_env} is not set", "set it to the key")
    azure = f"/openai/models?api-version={deployment.api_version}"
    base = deployment.endpoint.rstrip("/")
    url = base + (azure if deployment.api_version else "/models" if base.endswith("/v1") else "/v1/models")
    try:
        page = get(url, {"api-key": key, "Authorization": f"Bearer {key}"})
    except OSError as away:
        fix = "start it, or correct the endpoint in models.yaml"
        return Finding(
            Level.FAIL, "models", f"{deployment.name}: {deployment.endpoint} does not answer ({why(away)})", fix
        )
    # Only a refusal tells: not every server lists its models, and Entra ID is not tried here.
    if page.status in (401, 403) and deployment.key_env:
        return Finding(Level.FAIL, "models", f"{deployment.name} refuses our key", f"correct {deployment.key_env}")
    return Finding(Level.OK, "models", f"{deployment.endpoint} answers")
