"""Settings of the data service, beside those that all processes share."""

from functools import lru_cache

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class DataSettings(BaseSettings):
    """Limits of uploads and builds."""

    model_config = SettingsConfigDict(env_prefix="DATA_", extra="ignore")

    upload_max_rows: int = Field(default=2_000_000, ge=1)
    """Most rows of one event upload."""
    upload_decoded_bytes: int = Field(default=2 * 2**30, ge=1)
    """Most bytes that one Parquet or Arrow upload may unpack to: a small file can hold anything."""
    chunk_rows: int = Field(default=20_000, ge=1, le=100_000)
    """Rows written in one transaction. A larger upload that breaks off is sent again: rows already taken are duplicates."""
    build_query_s: int = Field(default=1800, ge=1)
    """How long one query of a dataset build may take."""


@lru_cache
def data_settings() -> DataSettings:
    """The process's settings, read once."""
    return DataSettings()
