"""The web kit's promises, fuzzed: whatever is sent, the answer is one the OpenAPI document lists, with the body it describes."""

import pytest

from shared.config import CommonSettings
from shared.contracts.scopes import ADMIN
from shared.keys import ensure_key, generate
from shared.registry.session import Sessions
from shared.web import key_routes
from shared.web.app import make_app
from tests.contract.fuzz import fuzz
from tests.unit.shared.web.conftest import router


def test_every_answer_is_documented(
    relevo_env: dict[str, str], sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.web.app.configure_logging", lambda *_: None)
    key = generate()
    with sessions.begin() as session:
        ensure_key(session, key, "admin", ADMIN)
    app = make_app(
        service="test",
        title="Kit",
        description="The web kit.",
        settings=CommonSettings(),
        sessions=sessions,
        routers=[key_routes.router, router],
        checks={},
    )
    tried = fuzz(app, key, skip={"/v1/fails"})
    assert {"GET /healthz", "GET /v1/keys", "POST /v1/keys", "POST /v1/pipelines/{p}/items"} <= set(tried)
