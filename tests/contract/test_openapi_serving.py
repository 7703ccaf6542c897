"""Serving against its own OpenAPI document: every answer is one that the document describes, and no 5xx."""

from services.serving.app import create_app
from tests.contract.fuzz import fuzz
from tests.contract.world import ADMIN_KEY, World

M, A = "/v1/models/{p}", "/admin/models"
V, R = "/v2/models/{p}", "/v2/repository"


def test_every_answer_is_documented(world: World) -> None:
    tried = fuzz(create_app(), ADMIN_KEY, known=world.known, lenient={"/feedback"})
    assert {
        "POST /predict", f"POST {M}/predict", "POST /feedback", f"GET {A}", f"GET {A}/{{p}}", f"GET {A}/{{p}}/history",
        f"POST {M}/rank", f"GET {A}/{{p}}/postprocessing", f"PUT {A}/{{p}}/postprocessing",
        f"GET {A}/{{p}}/postprocessing/history", f"GET {A}/{{p}}/removals", f"POST {A}/{{p}}/removals",
        f"POST {A}/{{p}}/removals/reinstate", f"GET {A}/{{p}}/removals/history",
        f"POST {A}/{{p}}/promote", f"POST {A}/{{p}}/rollback", f"POST {A}/{{p}}/canary",
        f"POST {A}/{{p}}/shadow", f"GET {A}/{{p}}/shadow", "GET /healthz", "GET /readyz",
        f"POST {M}/precompute", f"GET {M}/precompute", f"GET {M}/precompute/{{n}}", f"GET {M}/predictions/{{key}}",
        f"POST {M}/predictions",
        "GET /v2", "GET /v2/health/live", "GET /v2/health/ready", f"GET {V}", f"GET {V}/ready", f"POST {V}/infer",
        f"GET {V}/versions/{{n}}", f"GET {V}/versions/{{n}}/ready", f"POST {V}/versions/{{n}}/infer",
        f"POST {R}/index", f"POST {R}/models/{{p}}/load", f"POST {R}/models/{{p}}/unload",
    } == set(tried)  # fmt: skip
