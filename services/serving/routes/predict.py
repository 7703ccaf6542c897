"""POST /predict and /v1/models/{p}/predict."""

from typing import Any

from fastapi import Request, Response
from pydantic import BaseModel

from services.serving.routes.state import Serving, ServingDep
from services.serving.schemas import ModelPredictRequest, PredictRequest, PredictResponse
from shared.contracts.scopes import Scope
from shared.errors import UnsupportedMedia
from shared.observability.context import request_id
from shared.spec.types import Name
from shared.web.auth import GuardedRouter, principal, requires
from shared.web.body import is_json

router = GuardedRouter(tags=["predict"])


def json_body(model: type[BaseModel]) -> dict[str, Any]:
    """`openapi_extra` of a route that reads its body itself: documented like any other."""
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": model.model_json_schema()}}}}


@router.post(
    "/predict",
    dependencies=[requires(Scope.PREDICT)],
    response_model=PredictResponse,
    openapi_extra=json_body(PredictRequest),
)
async def predict(request: Request, serving: ServingDep) -> Response:
    """Score rows with the live model; each answer is logged before it leaves."""
    return await _answer(request, serving, None)


@router.post(
    "/v1/models/{p}/predict",
    dependencies=[requires(Scope.PREDICT)],
    response_model=PredictResponse,
    openapi_extra=json_body(ModelPredictRequest),
)
async def predict_with(p: Name, request: Request, serving: ServingDep) -> Response:
    """Score rows with the live model of one pipeline; each answer is logged before it leaves."""
    return await _answer(request, serving, p)


async def _answer(request: Request, serving: Serving, model: str | None) -> Response:
    # Read here and not by FastAPI: large bodies are parsed and checked off the event loop, rows without a model object each.
    if not is_json(request.headers.get("content-type", "")):
        raise UnsupportedMedia("Send the body as JSON: Content-Type: application/json.")
    answer = await serving.predictor.predict(
        await request.body(), model=model, caller=principal(request), caller_request_id=request_id.get()
    )
    return Response(answer, media_type="application/json")
