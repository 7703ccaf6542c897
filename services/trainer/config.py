"""Settings of the trainer, its workers and the background process."""

from functools import lru_cache

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from shared.config import CommonSettings


class TrainerSettings(CommonSettings):
    """What is the trainer's own; prefix TRAINER_."""

    model_config = SettingsConfigDict(env_prefix="RELEVO_", extra="ignore", populate_by_name=True)

    renudge_after_s: float = Field(default=60, gt=0, validation_alias="TRAINER_RENUDGE_AFTER_S")
    """A row that still waits this long after its last nudge is nudged again (a flushed queue, a lost message)."""
    monitor_s: float = Field(default=60, gt=0, validation_alias="TRAINER_MONITOR_S")
    """Time between two nudges that bring the monitoring of live models up to date."""
    peer_timeout_s: float = Field(default=30, gt=0, validation_alias="TRAINER_PEER_TIMEOUT_S")
    """How long the data service or the validator may take to answer."""
    max_streams: int = Field(default=50, ge=1, validation_alias="TRAINER_MAX_STREAMS")
    """Most runs that clients may follow at a time (`/runs/{id}/events`) in one process; more are answered 503."""


@lru_cache
def trainer_settings() -> TrainerSettings:
    """The process's settings, read once."""
    return TrainerSettings()
