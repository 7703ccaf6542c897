"""POST /predict and /v1/models/{p}/predict: raw routes, since what FastAPI does for a request costs more than a prediction."""

from typing import Any

from pydantic import BaseModel

from services.serving.assignment import HEADER
from services.serving.config import MOST_TIMEOUT_MS
from services.serving.routes.state import Serving
from services.serving.schemas import ModelPredictRequest, PredictRequest, PredictResponse
from shared.contracts.scopes import Scope
from shared.web.auth import GuardedRouter
from shared.web.errors import problem_responses
from shared.web.raw import Answer, Call, Waiting, raw

router = GuardedRouter(tags=["predict"])


def json_body(model: type[BaseModel]) -> dict[str, Any]:
    """`openapi_extra` of a route that reads its body itself: documented like any other."""
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": model.model_json_schema()}}}}


PARAMETERS: list[dict[str, Any]] = [
    {
        "name": HEADER.decode(),
        "in": "header",
        "required": False,
        "description": (
            "Whom the request is about, while a canary answers a share of the keys; "
            "default: the entity, else the key, of the first instance."
        ),
        "schema": {"type": "string"},
    },
    {
        "name": "X-Relevo-Timeout-Ms",
        "in": "header",
        "required": False,
        "description": (
            "Milliseconds from the receipt after which the answer is of no use: a request that would wait longer is answered 503 "
            "and not scored."
        ),
        "schema": {"type": "integer", "minimum": 1, "maximum": MOST_TIMEOUT_MS},
    },
    {
        "name": "X-Relevo-Priority",
        "in": "header",
        "required": False,
        "description": (
            "Who goes first, and is refused last, when more comes than can be scored; `high` needs the scope `predict:priority`."
        ),
        "schema": {"type": "string", "enum": ["high", "normal", "low"], "default": "normal"},
    },
]
"""Headers of every route that predicts, as OpenAPI has them."""


def predicts(model: type[BaseModel]) -> dict[str, Any]:
    """Options of a raw route that predicts: its body, headers and refusals as OpenAPI has them."""
    return {"openapi_extra": {**json_body(model), "parameters": PARAMETERS}, "responses": problem_responses(429)}


def _express(call: Call, waiting: Waiting) -> bool:
    serving: Serving = call.app.state.serving
    return serving.predictor.express(call, call.path.get("p"), waiting)


@raw(
    router,
    "/predict",
    scope=Scope.PREDICT,
    express=_express,
    response_model=PredictResponse,
    **predicts(PredictRequest),
)
async def predict(call: Call) -> Answer:
    """Score rows with the live model; each answer is logged before it leaves."""
    serving: Serving = call.app.state.serving
    return await serving.predictor.predict(call, None)


@raw(
    router,
    "/v1/models/{p}/predict",
    scope=Scope.PREDICT,
    express=_express,
    response_model=PredictResponse,
    **predicts(ModelPredictRequest),
)
async def predict_with(call: Call) -> Answer:
    """Score rows with the live model of one pipeline; each answer is logged before it leaves."""
    serving: Serving = call.app.state.serving
    return await serving.predictor.predict(call, call.path["p"])
