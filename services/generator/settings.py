"""The generator's settings."""

from pydantic import Field

from shared.settings.worker import WorkerSettings


class GeneratorSettings(WorkerSettings):
    """The generator's own settings."""

    model_timeout: float = Field(default=60, gt=0, description="maximum seconds of one model call")
    tries_per_deployment: int = Field(
        default=2, ge=1, description="attempts that start with one deployment before they start with the next"
    )
