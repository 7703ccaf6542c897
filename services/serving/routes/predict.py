"""POST /predict and /v1/models/{p}/predict: raw routes, since what FastAPI does for a request costs more than a prediction."""

from typing import Any

from pydantic import BaseModel

from services.serving.assignment import HEADER
from services.serving.routes.state import Serving
from services.serving.schemas import ModelPredictRequest, PredictRequest, PredictResponse
from shared.contracts.scopes import Scope
from shared.web.auth import GuardedRouter
from shared.web.raw import Answer, Call, Waiting, raw

router = GuardedRouter(tags=["predict"])


ASSIGNMENT_KEY: dict[str, Any] = {
    "name": HEADER.decode(),
    "in": "header",
    "required": False,
    "description": (
        "Whom the request is about, while a canary answers a share of the keys; "
        "default: the entity, else the key, of the first instance."
    ),
    "schema": {"type": "string"},
}


def json_body(model: type[BaseModel]) -> dict[str, Any]:
    """`openapi_extra` of a route that reads its body itself: documented like any other."""
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": model.model_json_schema()}}}}


def _express(call: Call, waiting: Waiting) -> bool:
    serving: Serving = call.app.state.serving
    return serving.predictor.express(call, call.path.get("p"), waiting)


@raw(
    router,
    "/predict",
    scope=Scope.PREDICT,
    express=_express,
    response_model=PredictResponse,
    openapi_extra={**json_body(PredictRequest), "parameters": [ASSIGNMENT_KEY]},
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
    openapi_extra={**json_body(ModelPredictRequest), "parameters": [ASSIGNMENT_KEY]},
)
async def predict_with(call: Call) -> Answer:
    """Score rows with the live model of one pipeline; each answer is logged before it leaves."""
    serving: Serving = call.app.state.serving
    return await serving.predictor.predict(call, call.path["p"])
