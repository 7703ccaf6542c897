"""Offline predictions: asking for a generation, following it, and looking predictions up by key."""

from typing import Annotated, Any

from fastapi import Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from pydantic import ValidationError

from services.serving import repository
from services.serving.offline import repository as offline_repository
from services.serving.offline.asked import MAX_STALENESS
from services.serving.offline.requests import request as request_generation
from services.serving.routes.predict import json_body
from services.serving.routes.state import Serving
from services.serving.schemas import (
    LONGEST_S,
    LookupAnswer,
    LookupRequest,
    LookupResponse,
    PrecomputeRequest,
    PrecomputeView,
)
from shared.contracts.scopes import Scope
from shared.errors import Invalid, Malformed, TooLarge, UnsupportedMedia
from shared.registry.tables import Precompute
from shared.spec.read import field_errors
from shared.spec.types import Name
from shared.web.auth import GuardedRouter, principal, requires
from shared.web.body import is_json, strict_json
from shared.web.deps import RowNumber, SessionDep
from shared.web.idempotency import IdempotencyKey, once
from shared.web.pagination import NumberPage, Page, page_of
from shared.web.raw import Answer, Call, raw

router = GuardedRouter(prefix="/v1/models/{p}", tags=["offline predictions"])

PARQUET = "application/vnd.apache.parquet"


def _inlined(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema whose own definitions stand where they are used: in a document, `#/$defs` leads nowhere."""
    parts = schema.pop("$defs", {})

    def inline(node: Any) -> Any:
        if isinstance(node, list):
            return [inline(item) for item in node]
        if not isinstance(node, dict):
            return node
        if "$ref" in node:
            return inline(parts[node["$ref"].rsplit("/", 1)[1]])
        return {name: inline(value) for name, value in node.items()}

    found: dict[str, Any] = inline(schema)
    return found


_ORDER = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": _inlined(PrecomputeRequest.model_json_schema())},
            PARQUET: {"schema": {"type": "string", "format": "binary"}},
        },
    }
}


@router.post(
    "/precompute",
    status_code=202,
    dependencies=[requires(Scope.PRECOMPUTE, upload=True)],
    response_model=PrecomputeView,
    openapi_extra=_ORDER,
)
async def precompute(p: Name, request: Request, key: IdempotencyKey = None) -> Response:
    """Score many rows in the background, into a new generation that answers lookups once it is ready: follow `state`.

    The rows are a dataset's, those of all keys seen, or an uploaded Parquet file with the pipeline's key, time and features. `{}`:
    what the pipeline file says (`offline.source`), else all keys seen.
    """
    body = await request.body()
    return await run_in_threadpool(_order, request, p, body, key)


def _order(request: Request, name: str, body: bytes, key: str | None) -> Response:
    state, kind = request.app.state, request.headers.get("content-type", "")
    serving: Serving = state.serving
    serving.follower.check_answering()
    source: dict[str, Any] | None
    if kind.partition(";")[0].strip().lower() == PARQUET:
        if len(body) < 12 or not (body.startswith(b"PAR1") and body.endswith(b"PAR1")):
            raise Malformed("The body is not a Parquet file.")
        with state.sessions() as session:
            repository.pipeline_id(session, name)
        # Before the transaction, which a slow store would hold up; under its content: the same again stores nothing new.
        source = {"file": serving.store.put_bytes(body)}
    else:
        source = _source(body, kind, state.settings.body_limit_bytes)
    with state.sessions.begin() as session:
        pipeline = repository.pipeline_id(session, name)

        def effect() -> tuple[int, PrecomputeView]:
            row = request_generation(session, pipeline, source, principal(request).name)
            return 202, PrecomputeView.of(row, None)

        return once(session, request, key, effect)


def _source(body: bytes, kind: str, limit_bytes: int) -> dict[str, Any] | None:
    if not is_json(kind):
        raise UnsupportedMedia(f"Send JSON that names the rows, or the rows themselves as {PARQUET}.")
    if len(body) > limit_bytes:
        raise TooLarge(f"The JSON may have {limit_bytes} bytes.")
    document = strict_json(body)
    if document == {}:
        return None
    try:
        return PrecomputeRequest.model_validate(document).model_dump(mode="json", exclude_none=True)
    except ValidationError as error:
        errors = field_errors(error.errors(include_url=False, include_input=False, include_context=False))
        errors = [{"loc": ["body", *one["loc"]], "msg": one["msg"]} for one in errors]
        where = ".".join(map(str, errors[0]["loc"][1:])) or "the body"
        raise Invalid(f"The rows to score: {where}: {errors[0]['msg']}.", errors=errors) from None


@router.get("/precompute", dependencies=[requires(Scope.READ)])
def list_generations(p: Name, session: SessionDep, page: NumberPage) -> Page[PrecomputeView]:
    """List generations, newest first."""
    rows = offline_repository.listed(session, repository.pipeline_id(session, p), page)
    numbers = repository.version_numbers(session, {row.version_id for row in rows if row.version_id})

    def show(row: Precompute) -> PrecomputeView:
        return PrecomputeView.of(row, numbers.get(row.version_id) if row.version_id else None)

    return page_of(rows, page, cursor=lambda row: row.number, show=show)


@router.get("/precompute/{n}", dependencies=[requires(Scope.READ)])
def get_generation(p: Name, n: RowNumber, session: SessionDep) -> PrecomputeView:
    """One generation and how far it is."""
    row = offline_repository.get(session, repository.pipeline_id(session, p), n)
    numbers = repository.version_numbers(session, {row.version_id} if row.version_id else set())
    return PrecomputeView.of(row, numbers.get(row.version_id) if row.version_id else None)


@raw(
    router,
    "/predictions/{key:path}",
    scope=Scope.PREDICT,
    method="GET",
    response_model=LookupAnswer,
    path_types={"key": str},
    query={
        MAX_STALENESS: Annotated[
            float | None,
            Query(ge=0, le=LONGEST_S, description="An older offline prediction does not answer."),
        ]
    },
)
async def look_up(call: Call) -> Answer:
    """A key's prediction: made ahead, else scored now from the features kept beside it, else the pipeline's default."""
    serving: Serving = call.app.state.serving
    return await serving.lookups.one(call, call.path["p"], call.path["key"])


@raw(
    router,
    "/predictions",
    scope=Scope.PREDICT,
    response_model=LookupResponse,
    openapi_extra=json_body(LookupRequest),
)
async def look_up_many(call: Call) -> Answer:
    """Predictions for instances: those made ahead by their keys; the others are scored now as /predict does."""
    serving: Serving = call.app.state.serving
    return await serving.lookups.many(call, call.path["p"])
