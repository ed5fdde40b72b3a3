"""The gateway's settings."""

from pydantic import Field, SecretStr

from shared.settings.worker import WorkerSettings


class GatewaySettings(WorkerSettings):
    """What the gateway is told beyond what every worker is."""

    http_host: str = Field(default="127.0.0.1", description="where the HTTP door listens")
    http_port: int = Field(default=8080, ge=0, le=65535, description="0: any free port")
    cache_secret: SecretStr = Field(
        default=SecretStr("laptop"), description="keys the answer cache; the same for all gateways"
    )
    clock_skew: float = Field(default=30, ge=0, description="seconds by which clocks may differ; see duplicate window")
    duplicate_window: float = Field(
        default=600, gt=0, description="seconds; of the queues at the broker (the emulator's longest is 300)"
    )
