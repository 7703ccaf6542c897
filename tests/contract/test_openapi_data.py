"""The data service against its own OpenAPI document: every answer is one that the document describes, and no 5xx."""

from services.data.app import create_app
from shared.config import CommonSettings
from tests.contract.fuzz import fuzz
from tests.contract.world import ADMIN_KEY, World

P = "/v1/pipelines/{p}"
ROW_VERDICTS = {f"{P}/events", f"{P}/labels"}
REBUILD = f"{P}/datasets/{{n}}/verify"
"""Builds a dataset each time."""


def test_every_answer_is_documented(world: World) -> None:
    tried = fuzz(create_app(CommonSettings()), ADMIN_KEY, known=world.known, lenient=ROW_VERDICTS, skip={REBUILD})
    assert {
        "POST /v1/pipelines", "GET /v1/pipelines", f"GET {P}", "GET /v1/schema/pipeline.json", f"POST {P}/events",
        f"POST {P}/labels", f"GET {P}/quarantine", f"POST {P}/datasets", f"GET {P}/datasets", f"GET {P}/datasets/{{n}}",
        f"GET {P}/datasets/{{n}}/statistics", f"GET {P}/datasets/{{n}}/card", f"GET {P}/datasets/{{n}}/splits/{{split}}",
        "GET /v1/keys", "POST /v1/keys", "POST /v1/keys/{id}/revoke", "GET /healthz", "GET /readyz",
    } == set(tried)  # fmt: skip


def test_rebuilding_is_documented(world: World) -> None:
    assert fuzz(create_app(CommonSettings()), ADMIN_KEY, known=world.known, only={REBUILD}, examples=3) == [
        f"POST {REBUILD}"
    ]
