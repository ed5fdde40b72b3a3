"""The generator's settings."""

from pydantic import Field

from shared.settings.worker import WorkerSettings


class GeneratorSettings(WorkerSettings):
    """What the generator is told beyond what every worker is."""

    model_timeout: float = Field(default=60, gt=0, description="seconds that one model call may take")
    tries_per_deployment: int = Field(
        default=2, ge=1, description="attempts that begin with a deployment before they begin with the next"
    )
