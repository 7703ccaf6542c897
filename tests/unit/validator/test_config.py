"""Where alerts may be sent."""

import pytest
from pydantic import ValidationError

from services.validator.config import ValidatorSettings

NEEDED = {
    "DATABASE_URL": "postgresql://u:p@localhost/db",
    "REDIS_URL": "redis://localhost/0",
    "RELEVO_PREDICTION_SECRET": "0123456789abcdef" * 3,
    "RELEVO_SERVICE_KEY": "rlv_0123456789ab_" + "s" * 43,
}


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in NEEDED.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    "url", ["https://hooks.example.org/T0/token", "http://127.0.0.1:9/x", "http://localhost/x", "http://[::1]:8/x"]
)
def test_https_or_this_machine(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("RELEVO_WEBHOOK_URL", url)
    settings = ValidatorSettings()
    assert settings.webhook_url is not None
    assert settings.webhook_url.get_secret_value() == url
    assert url not in repr(settings)


@pytest.mark.parametrize("url", ["http://example.org/x", "http://10.0.0.1/", "ftp://localhost/", "https:///x", "hook"])
def test_nothing_else(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("RELEVO_WEBHOOK_URL", url)
    with pytest.raises(ValidationError, match="https://"):
        ValidatorSettings()


def test_none_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ValidatorSettings().webhook_url is None
    monkeypatch.setenv("RELEVO_WEBHOOK_URL", "")
    assert ValidatorSettings().webhook_url is None
