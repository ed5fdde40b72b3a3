"""The gateway's settings."""

from pydantic import Field, SecretStr, field_validator

from services.gateway.connections import Limits
from shared.settings.worker import WorkerSettings

SECRET_LENGTH = 16


class GatewaySettings(WorkerSettings):
    """The gateway's own settings."""

    http_host: str = Field(default="127.0.0.1", description="the address that the HTTP endpoint listens on")
    http_port: int = Field(default=8080, ge=0, le=65535, description="0: any free port")
    http_header_timeout: float = Field(
        default=10, gt=0, description="seconds from a connection, or a request's first byte, to the end of its headers"
    )
    http_body_timeout: float = Field(
        default=10, gt=0, description="seconds for a request's body, plus one for every 4 KiB received"
    )
    http_idle_timeout: float = Field(
        default=75,
        gt=0,
        description="seconds between two requests on a connection; longer than the idle timeout of a proxy in front",
    )
    http_unauthenticated_connections: int = Field(
        default=256, ge=1, description="maximum connections without a valid key; the oldest is dropped for a new one"
    )
    http_caller_connections: int = Field(
        default=256, ge=1, description="maximum connections of one caller; when all are busy, 429"
    )
    http_connections: int = Field(
        default=4096, ge=2, description="maximum connections in all; at most half of the process's file descriptors"
    )
    cache_secret: SecretStr = Field(
        description=f"keys the answer cache: at least {SECRET_LENGTH} random characters, the same for all gateways "
        "(`openssl rand -hex 32`)"
    )
    clock_skew: float = Field(
        default=30, ge=0, description="seconds by which clocks may differ; part of the duplicate window"
    )
    duplicate_window: float = Field(
        default=600, gt=0, description="seconds of duplicate detection on the queues (at most 300 on the emulator)"
    )

    @field_validator("cache_secret")
    @classmethod
    def _not_guessed(cls, secret: SecretStr) -> SecretStr:
        if len(secret.get_secret_value().strip()) < SECRET_LENGTH:
            raise ValueError(f"has fewer than {SECRET_LENGTH} characters: make one with `openssl rand -hex 32`")
        return secret

    def http_limits(self) -> Limits:
        """The limits of an HTTP connection."""
        return Limits(
            header_seconds=self.http_header_timeout,
            body_seconds=self.http_body_timeout,
            idle_seconds=self.http_idle_timeout,
            unauthenticated=self.http_unauthenticated_connections,
            per_caller=self.http_caller_connections,
            total=self.http_connections,
        )
