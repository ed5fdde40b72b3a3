"""The settings of every worker: bus, Redis, configuration folder, concurrency."""

from pathlib import Path
from typing import Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator

from shared.settings.base import Settings


class WorkerSettings(Settings):
    """Settings that all four workers share. Durations are in seconds."""

    servicebus_connection_string: SecretStr | None = Field(
        default=None, description="connection string of the namespace: the laptop, the emulator, or Azure with a key"
    )
    servicebus_namespace: str | None = Field(
        default=None, description="name.servicebus.windows.net, reached with the workload's own identity"
    )
    redis_url: SecretStr = Field(
        default=SecretStr("redis://127.0.0.1:6379/0"),
        description="answers, ledger, budgets: one server, or any node of a Redis Cluster",
    )
    redis_timeout: float = Field(
        default=0.08, gt=0, le=10, description="seconds that a command may take before Redis counts as unavailable"
    )
    config: Path = Field(
        default=Path("examples/onboarding"),
        description="folder with callers.yaml, models.yaml, sources.yaml and use_cases/",
    )
    concurrency: int = Field(
        default=16,
        ge=1,
        le=256,
        description="deliveries in progress at once, plus a quarter where tenants share a queue",
    )
    grace: float = Field(default=25, ge=0, description="seconds that running work has to finish after SIGTERM")
    attempts: int = Field(
        default=8,
        ge=1,
        le=100,
        description="attempts of work without a deadline (documents) before it is dead-lettered",
    )
    health_host: str = Field(
        default="127.0.0.1", description="the address of /healthz, /readyz, /connected and /metrics"
    )
    health_port: int = Field(default=0, ge=0, le=65535, description="0: any free port; the log names it")
    log_format: Literal["auto", "json", "pretty"] = Field(default="auto", description="auto: pretty on a terminal")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="the lowest level that is logged"
    )

    @field_validator("redis_url")
    @classmethod
    def _a_redis_url(cls, url: SecretStr) -> SecretStr:
        try:
            split = urlsplit(url.get_secret_value())
            good = split.scheme in ("redis", "rediss", "unix") and (split.port is None or split.port > 0)
        except ValueError:
            good = False
        if not good:
            # Without the value, which may contain a password.
            raise ValueError(
                "must be redis://…, or rediss://:password@host:port/0 for TLS; "
                "in a password write %2F for /, %23 for #, %3F for ? and %25 for %"
            )
        return url

    @model_validator(mode="after")
    def _one_way_to_the_bus(self) -> Self:
        if bool(self.servicebus_connection_string) == bool(self.servicebus_namespace):
            raise ValueError(
                "set RAGBUS_SERVICEBUS_CONNECTION_STRING, or RAGBUS_SERVICEBUS_NAMESPACE for a workload identity "
                "(exactly one of them); on a laptop `ragbus up` does it for you"
            )
        return self
