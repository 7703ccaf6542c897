"""Training runs: start one, look at them, follow one, cancel one."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import structlog
from fastapi import Request, Response
from fastapi.responses import StreamingResponse
from sqlalchemy.exc import SQLAlchemyError

from services.trainer import listing_repository, repository
from services.trainer.routes.names import PipelineName, RunId
from services.trainer.routes.streams import Streams
from services.trainer.runs import cancel_run, queue_run
from services.trainer.schemas import RunCreate, RunView, RunWithHistory
from shared.contracts.scopes import Scope
from shared.errors import Conflict, RelevoError
from shared.keyring import KeyRing
from shared.registry.session import Sessions
from shared.registry.states import RunState, is_terminal
from shared.registry.tables import Run
from shared.web.auth import GuardedRouter, authenticate, requires
from shared.web.deps import SessionDep
from shared.web.idempotency import IdempotencyKey, once
from shared.web.pagination import IdPage, Page, page_of

router = GuardedRouter(prefix="/v1/pipelines/{p}/runs", tags=["runs"])

log = structlog.get_logger(__name__)

LOOK_S = 1.0
EVENT_STREAM: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Progress, event by event.",
        "content": {
            "text/event-stream": {
                "schema": {
                    "type": "object",
                    "required": ["event", "data"],
                    "properties": {
                        "event": {"const": "progress"},
                        "data": {"type": "string", "contentMediaType": "application/json", "description": "The run."},
                    },
                }
            }
        },
    }
}


@router.post("", status_code=202, response_model=RunWithHistory, dependencies=[requires(Scope.TRAIN)])
def start(
    p: PipelineName, body: RunCreate, session: SessionDep, request: Request, key: IdempotencyKey = None
) -> Response:
    """Train on a dataset, outside of any cycle: the version that comes of it is judged only when asked for."""

    def effect() -> tuple[int, RunWithHistory]:
        pipeline = repository.pipeline_named(session, p)
        row = queue_run(session, repository.dataset_numbered(session, pipeline.id, body.dataset))
        return 202, _whole(session, p, row)

    return once(session, request, key, effect)


@router.get("", dependencies=[requires(Scope.READ)])
def list_all(p: PipelineName, session: SessionDep, page: IdPage) -> Page[RunView]:
    """Runs, newest first, without their epochs."""
    rows = listing_repository.runs_page(session, repository.pipeline_named(session, p).id, page)
    return page_of(rows, page, cursor=lambda row: row.id, show=_view(session, p, rows))


@router.get("/{id}", dependencies=[requires(Scope.READ)])
def one(p: PipelineName, id: RunId, session: SessionDep) -> RunWithHistory:  # noqa: A002 - the name in the path
    """One run with its epochs."""
    return _whole(session, p, repository.run_of(session, repository.pipeline_named(session, p).id, id))


@router.get(
    "/{id}/events", dependencies=[requires(Scope.READ)], response_class=StreamingResponse, responses=EVENT_STREAM
)
async def events(p: PipelineName, id: RunId, request: Request) -> StreamingResponse:  # noqa: A002
    """Follow a run: server-sent events `progress` with the run as JSON whenever it changed, until it ends.

    The stream also ends when the key is revoked, or cannot be checked: ask again. 503 when too many are followed at once.
    """
    sessions: Sessions = request.app.state.sessions
    keys: KeyRing = request.app.state.keys
    streams: Streams = request.app.state.streams

    def look() -> RunWithHistory:
        with sessions.begin() as session:
            return _whole(session, p, repository.run_of(session, repository.pipeline_named(session, p).id, id))

    first = await asyncio.to_thread(look)

    async def stream() -> AsyncIterator[str]:
        shown, run = "", first
        while True:
            if (text := run.model_dump_json()) != shown:
                shown = text
                yield f"event: progress\ndata: {text}\n\n"
            if is_terminal(RunState(run.state)):
                return
            await asyncio.sleep(LOOK_S)
            try:
                if not authenticate(request.scope["headers"], keys, Scope.READ).allows_pipeline(p):
                    return
                run = await asyncio.to_thread(look)
            except (RelevoError, SQLAlchemyError) as error:
                log.info("a stream ends early", run=str(id), reason=getattr(error, "detail", type(error).__name__))
                return

    return streams.respond(stream())


@router.post("/{id}/cancel", dependencies=[requires(Scope.TRAIN)])
def cancel(p: PipelineName, id: RunId, session: SessionDep) -> RunWithHistory:  # noqa: A002
    """Stop a run; one that is training stops within seconds, and no version comes of it."""
    row = repository.run_of(session, repository.pipeline_named(session, p).id, id, lock=True)
    if is_terminal(RunState(row.state)):
        raise Conflict(f"The run has {row.state} already.")
    cancel_run(session, row)
    session.flush()
    return _whole(session, p, row)


def _view(session: SessionDep, pipeline: str, rows: Sequence[Run]) -> Callable[[Run], RunView]:
    numbers: dict[uuid.UUID, tuple[int | None, int | None]] = listing_repository.numbers_of(session, rows)
    return lambda row: RunView.of(row, pipeline, numbers[row.id])


def _whole(session: SessionDep, pipeline: str, row: Run) -> RunWithHistory:
    numbers = listing_repository.numbers_of(session, [row])
    return RunWithHistory.of(row, pipeline, numbers[row.id]).with_epochs(repository.progress_of(session, row))
