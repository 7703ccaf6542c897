"""Serving against its own OpenAPI document: whatever is sent, the answer is one that the document describes, and no 5xx."""

import pytest

from services.serving.app import create_app
from tests.contract.fuzz import fuzz
from tests.integration.serving.registry import ADMIN_KEY, Registry
from tests.unit.serving.tiny_model import tiny_model


def test_every_answer_is_documented(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.web.app.configure_logging", lambda *_: None)
    registry.pipeline()
    registry.version(tiny_model(0.25))
    registry.deploy(1)
    tried = fuzz(create_app(), ADMIN_KEY, examples=15)
    assert {
        "POST /predict", "POST /v1/models/{p}/predict", "POST /feedback", "GET /admin/models", "GET /admin/models/{p}",
        "POST /admin/models/{p}/promote", "POST /admin/models/{p}/rollback", "GET /admin/models/{p}/history",
    } <= set(tried)  # fmt: skip
