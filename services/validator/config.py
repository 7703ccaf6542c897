"""Settings of the validator, beside those that every process reads."""

import ipaddress
from urllib.parse import urlsplit

from pydantic import AliasChoices, Field, SecretStr, field_validator

from shared.config import CommonSettings


class ValidatorSettings(CommonSettings):
    """What the validator service and its worker read from the environment."""

    webhook_url: SecretStr | None = Field(default=None, validation_alias=AliasChoices("RELEVO_WEBHOOK_URL"))
    """Where alerts are posted as JSON: https, or http to this machine. Often holds a token, so it is kept like a secret."""
    monitor_s: float = Field(default=5, gt=0, validation_alias=AliasChoices("VALIDATOR_MONITOR_S"))
    """Time between two looks for new predictions and labels, due alerts, and gauges to renew."""
    scoring_threads: int = Field(default=1, ge=1, le=256, validation_alias=AliasChoices("VALIDATOR_SCORING_THREADS"))
    """Threads that ONNX Runtime may use to score test rows."""

    @field_validator("webhook_url")
    @classmethod
    def _safe_webhook(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None or not value.get_secret_value():
            return None
        parts = urlsplit(value.get_secret_value())
        if parts.scheme == "https" and parts.hostname:
            return value
        if parts.scheme == "http" and parts.hostname and _is_loopback(parts.hostname):
            return value
        raise ValueError("must be an https:// address, or http:// on this machine (127.0.0.1, ::1, localhost)")


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
