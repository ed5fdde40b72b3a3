"""The gateway's settings."""

from pydantic import Field, SecretStr, field_validator

from shared.settings.worker import WorkerSettings

SECRET_LENGTH = 16


class GatewaySettings(WorkerSettings):
    """What the gateway is told beyond what every worker is."""

    http_host: str = Field(default="127.0.0.1", description="where the HTTP door listens")
    http_port: int = Field(default=8080, ge=0, le=65535, description="0: any free port")
    cache_secret: SecretStr = Field(
        description=f"keys the answer cache: at least {SECRET_LENGTH} random characters, the same for all gateways "
        "(`openssl rand -hex 32`)"
    )
    clock_skew: float = Field(default=30, ge=0, description="seconds by which clocks may differ; see duplicate window")
    duplicate_window: float = Field(
        default=600, gt=0, description="seconds; of the queues at the broker (the emulator's longest is 300)"
    )

    @field_validator("cache_secret")
    @classmethod
    def _not_guessed(cls, secret: SecretStr) -> SecretStr:
        if len(secret.get_secret_value().strip()) < SECRET_LENGTH:
            raise ValueError(f"has fewer than {SECRET_LENGTH} characters: make one with `openssl rand -hex 32`")
        return secret
