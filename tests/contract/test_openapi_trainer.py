"""The trainer against its own OpenAPI document: every answer is one that the document describes, and no 5xx."""

from services.trainer.app import create_app
from services.trainer.config import TrainerSettings
from tests.contract.fuzz import fuzz
from tests.contract.world import ADMIN_KEY, World

P = "/v1/pipelines/{p}"


def test_every_answer_is_documented(world: World) -> None:
    tried = fuzz(create_app(TrainerSettings()), ADMIN_KEY, known=world.known)
    assert {
        f"POST {P}/cycles", f"GET {P}/cycles", f"GET {P}/cycles/{{id}}", f"POST {P}/cycles/{{id}}/cancel",
        f"POST {P}/runs", f"GET {P}/runs", f"GET {P}/runs/{{id}}", f"GET {P}/runs/{{id}}/events",
        f"POST {P}/runs/{{id}}/cancel", f"GET {P}/schedule", f"PUT {P}/schedule", f"GET {P}/versions",
        f"GET {P}/versions/{{n}}", "GET /healthz", "GET /readyz",
    } == set(tried)  # fmt: skip
