"""Settings that every process reads from its environment. Each service adds its own in its `config.py`."""

import os
from functools import lru_cache
from pathlib import Path
from typing import Literal

from pydantic import AliasChoices, Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

PLACEHOLDERS = ("changeme", "change-me", "secret", "password", "placeholder", "example")


def _env(name: str) -> AliasChoices:
    return AliasChoices(name)


class CommonSettings(BaseSettings):
    """What the registry, the queue, the artifact store and the other services are reached by."""

    model_config = SettingsConfigDict(env_prefix="RELEVO_", extra="ignore", populate_by_name=True)

    database_url: SecretStr = Field(validation_alias=_env("DATABASE_URL"))
    """PostgreSQL 16 or newer (tested with 18): postgresql://user:password@host:port/database."""
    redis_url: SecretStr = Field(validation_alias=_env("REDIS_URL"))
    """A server that speaks the Redis protocol: redis://:password@host:port/0."""
    artifacts_url: str = "file://.relevo/artifacts"
    """Where datasets and models are stored: file:///folder or s3://bucket/prefix."""
    prediction_secret: SecretStr
    """Signs prediction ids; one value for all serving replicas and the data service, at least 32 characters."""
    service_key: SecretStr
    """The API key the services use among each other."""
    serving_url: str = "http://127.0.0.1:8000"
    """Where the validator reaches serving."""
    data_url: str = "http://127.0.0.1:8001"
    """Where the trainer reaches the data service."""
    trainer_url: str = "http://127.0.0.1:8002"
    """Where clients reach the trainer."""
    validator_url: str = "http://127.0.0.1:8003"
    """Where the trainer reaches the validator."""
    lease_s: float = Field(default=30, gt=0)
    """How long a worker may be silent before its row is given to another."""
    sweep_s: float = Field(default=5, gt=0)
    """Time between two looks for expired leases, unsent nudges and due schedule slots."""
    max_attempts: int = Field(default=3, ge=1)
    """How often a unit of work is tried before it fails for good; what an outage or a stopping worker cuts short is not counted."""
    keys_max_age_s: float = Field(default=3600, gt=0)
    """How old the known API keys may get for predict and feedback while PostgreSQL is away."""
    body_limit_bytes: int = Field(default=8 * 2**20, gt=0)
    """Largest request body, uploads aside."""
    upload_limit_bytes: int = Field(default=256 * 2**20, gt=0)
    """Largest body of an event upload."""
    body_timeout_s: float = Field(default=30, gt=0)
    """How long a client may take to send its body."""
    metrics_port: int = Field(default=0, ge=0, le=65535)
    """Port on which workers and the background process answer /metrics, /healthz and /readyz; 0 turns it off."""
    metrics_host: str = "127.0.0.1"
    """Address for `metrics_port`."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """Least level logged."""
    log_format: Literal["json", "console"] = "json"
    """One JSON object a line, or coloured text."""

    @field_validator("prediction_secret")
    @classmethod
    def _strong_secret(cls, value: SecretStr) -> SecretStr:
        text = value.get_secret_value()
        if len(text) < 32 or any(text.lower().startswith(word) for word in PLACEHOLDERS):
            raise ValueError("must be a generated secret of at least 32 characters, not a placeholder")
        return value

    @property
    def sqlalchemy_url(self) -> str:
        """The database URL with the psycopg 3 driver named."""
        return psycopg_url(self.database_url.get_secret_value())


def psycopg_url(url: str) -> str:
    """Name SQLAlchemy's psycopg 3 driver in a plain PostgreSQL URL."""
    scheme, separator, rest = url.partition("://")
    if not separator or scheme.split("+")[0] not in ("postgresql", "postgres"):
        raise ValueError("DATABASE_URL must look like postgresql://user:password@host:port/database")
    return f"postgresql+psycopg://{rest}"


@lru_cache
def common_settings() -> CommonSettings:
    """The process's settings, read once."""
    return CommonSettings()


def local_cache_dir(name: str) -> Path:
    """A folder for verified local copies of artifacts, under the user's cache folder."""
    base = os.environ.get("RELEVO_CACHE_DIR") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "relevo"
    )
    path = Path(base) / name
    path.mkdir(parents=True, exist_ok=True)
    return path
