"""Whether the deployments' endpoints answer and accept our keys."""

import os
from collections.abc import Iterator

from ops.checks.http import get
from ops.connect import why
from ops.findings import Finding, Level
from ops.target import Target


def models(at: Target) -> Iterator[Finding]:
    """One finding for each endpoint and key in models.yaml."""
    from shared.llm.deployments import AZURE_V1, Deployments

    environment = {**os.environ, **at.variables}
    seen: set[tuple[str, str | None]] = set()
    for deployment in Deployments.read(at.config / "models.yaml", environment).deployments:
        name, endpoint = deployment.name, deployment.endpoint
        if (endpoint, deployment.key_env) in seen:
            continue
        seen.add((endpoint, deployment.key_env))
        key = environment.get(deployment.key_env or "", "")
        if deployment.key_env and not key:
            yield Finding(Level.FAIL, "models", f"{name}: {deployment.key_env} is not set", "set it to the key")
            continue
        url = f"{deployment.address.rstrip('/')}/models"
        if deployment.api_version not in (None, AZURE_V1):
            url = f"{deployment.address}/openai/models?api-version={deployment.api_version}"
        try:
            page = get(url, {**deployment.headers, "api-key": key, "Authorization": f"Bearer {key}"})
        except OSError as error:
            fix = "start it, or correct the endpoint in models.yaml"
            yield Finding(Level.FAIL, "models", f"{name}: {endpoint} does not answer ({why(error)})", fix)
            continue
        # Only a refusal is evidence: not every server lists its models, and Entra ID is not tried here.
        if page.status in (401, 403) and deployment.key_env:
            yield Finding(Level.FAIL, "models", f"{name} refuses our key", f"correct {deployment.key_env}")
        else:
            yield Finding(Level.OK, "models", f"{endpoint} answers")
