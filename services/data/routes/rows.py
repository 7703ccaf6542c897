"""What comes in row by row: events, labels, and what could not be taken."""

import contextlib
from typing import Annotated, Any, Literal

import orjson
from fastapi import Query, Request, Response
from fastapi.concurrency import run_in_threadpool

from services.data import repository
from services.data.decode import EVENT_TYPES, LABEL_TYPES, MediaType, decode, media_type
from services.data.ingest import Target, Verdicts, ingest_events, ingest_labels, open_target
from services.data.schemas import QuarantineView, RowVerdicts
from shared.contracts.scopes import Scope
from shared.errors import TooLarge
from shared.web.auth import GuardedRouter, requires
from shared.web.deps import SessionDep
from shared.web.pagination import NumberPage, Page, page_of

router = GuardedRouter(prefix="/v1/pipelines/{p}", tags=["rows"])

_ROWS = {"type": "array", "items": {"type": "object"}}


def _body(*kinds: MediaType) -> dict[str, Any]:
    schemas: dict[str, Any] = {kind.value: {"schema": {"type": "string", "format": "binary"}} for kind in kinds}
    schemas[MediaType.JSON] = {"schema": _ROWS}
    return {"requestBody": {"required": True, "content": schemas}}


@router.post(
    "/events",
    dependencies=[requires(Scope.INGEST, upload=True)],
    openapi_extra=_body(*EVENT_TYPES),
    response_model=RowVerdicts,
)
async def send_events(p: str, request: Request) -> Response:
    """Send events: what described each example when it happened, and its label where that is known.

    A row holds the pipeline's key, time and features, and may hold entity, columns, the label, `available_at` (when this was
    known; default: receipt) and `label_time` (since when the label is known; default: `available_at`). A JSON array may have up
    to `RELEVO_BODY_LIMIT_BYTES`; NDJSON, Parquet and Arrow streams up to `RELEVO_UPLOAD_LIMIT_BYTES`.

    Rows that cannot be taken go to quarantine with a reason and never abort the rest. Sending rows again is safe: they are
    duplicates, and what quarantine has already is counted there. Large uploads are stored in several transactions
    (`DATA_CHUNK_ROWS`): one that breaks off is sent again.
    """
    kind = media_type(request.headers.get("content-type"), EVENT_TYPES)
    target = await run_in_threadpool(open_target, request.app.state.sessions, p)
    body = await request.body()
    limit = request.app.state.settings.body_limit_bytes
    if kind is MediaType.JSON and len(body) > limit:
        raise TooLarge(f"A JSON array may have {limit} bytes; send more rows as NDJSON, Parquet or an Arrow stream.")
    return _answer(await run_in_threadpool(_take_events, request, target, kind, body))


@router.post(
    "/labels", dependencies=[requires(Scope.INGEST)], openapi_extra=_body(*LABEL_TYPES), response_model=RowVerdicts
)
async def send_labels(p: str, request: Request) -> Response:
    """Send the truth: `{key | prediction_id, label, time?, source?, available_at?}`; late, early, repeated or corrected.

    `time` is when the truth became known (default: `available_at`, and that defaults to the receipt); `source` is explicit
    (default) or implicit. Which label of an example counts does not depend on the order of arrival: explicit beats event
    beats implicit, then the latest `time`.
    """
    kind = media_type(request.headers.get("content-type"), LABEL_TYPES)
    target = await run_in_threadpool(open_target, request.app.state.sessions, p)
    body = await request.body()
    return _answer(await run_in_threadpool(_take_labels, request, target, kind, body))


@router.get("/quarantine", dependencies=[requires(Scope.READ)])
def list_quarantine(
    p: str,
    session: SessionDep,
    page: NumberPage,
    kind: Annotated[Literal["event", "label"] | None, Query(description="Only rows of this kind.")] = None,
) -> Page[QuarantineView]:
    """List rows that could not be taken, newest first, each with the reason and how often it was sent."""
    pipeline = repository.get_pipeline(session, p)
    rows = repository.list_quarantine(session, pipeline.id, page, kind)
    return page_of(rows, page, cursor=lambda row: row.seq, show=QuarantineView.of)


def _take_events(request: Request, target: Target, kind: MediaType, body: bytes) -> Verdicts:
    state = request.app.state
    # Closed here: after an error the rows, and with them a process that unpacks, would live as long as its traceback.
    with contextlib.closing(decode(body, kind, target.spec, state.data_settings)) as rows:
        return ingest_events(state.sessions, target, rows)


def _take_labels(request: Request, target: Target, kind: MediaType, body: bytes) -> Verdicts:
    state = request.app.state
    rows = decode(body, kind, target.spec, state.data_settings)
    return ingest_labels(state.sessions, target, rows, state.prediction_ids)


def _answer(verdicts: Verdicts) -> Response:
    return Response(orjson.dumps(verdicts), media_type="application/json")
