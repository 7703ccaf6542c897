"""The validator against its own OpenAPI document: every answer is one that the document describes, and no 5xx."""

from services.validator.app import create_app
from tests.contract.fuzz import fuzz
from tests.contract.world import ADMIN_KEY, World

P = "/v1/pipelines/{p}"


def test_every_answer_is_documented(world: World) -> None:
    tried = fuzz(create_app(), ADMIN_KEY, known=world.known)
    assert {
        f"POST {P}/validations", f"GET {P}/validations", f"GET {P}/validations/{{id}}", f"GET {P}/monitoring",
        f"POST {P}/validations/{{id}}/approve", f"POST {P}/validations/{{id}}/reject", f"GET {P}/alerts",
        f"POST {P}/alerts/{{id}}/acknowledge", "GET /healthz", "GET /readyz",
    } == set(tried)  # fmt: skip
