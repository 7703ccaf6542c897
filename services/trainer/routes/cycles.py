"""Cycles: start one, look at them, cancel one."""

import uuid
from collections.abc import Callable, Sequence

from fastapi import Request, Response

from services.trainer import cycle_repository, cycles, listing_repository, repository
from services.trainer.routes.names import CycleId, PipelineName
from services.trainer.schemas import CycleCreate, CycleView
from shared.contracts.scopes import Scope
from shared.registry.tables import Cycle
from shared.web.auth import GuardedRouter, requires
from shared.web.deps import PrincipalDep, SessionDep
from shared.web.idempotency import IdempotencyKey, once
from shared.web.pagination import IdPage, Page, page_of

router = GuardedRouter(prefix="/v1/pipelines/{p}/cycles", tags=["cycles"])


@router.post("", status_code=202, response_model=CycleView, dependencies=[requires(Scope.TRAIN)])
def start(
    *,
    p: PipelineName,
    body: CycleCreate,
    session: SessionDep,
    caller: PrincipalDep,
    request: Request,
    key: IdempotencyKey = None,
) -> Response:
    """Build a dataset, train on it, judge the model, release it if it is not worse. GET shows how far it is."""

    def effect() -> tuple[int, CycleView]:
        pipeline = repository.pipeline_named(session, p)
        row = cycles.start_cycle(session, pipeline, as_of=body.as_of, trigger="manual", requested_by=caller.name)
        return 202, _view(session, p, [row])(row)

    return once(session, request, key, effect)


@router.get("", dependencies=[requires(Scope.READ)])
def list_all(p: PipelineName, session: SessionDep, page: IdPage) -> Page[CycleView]:
    """Cycles, newest first."""
    rows = listing_repository.cycles_page(session, repository.pipeline_named(session, p).id, page)
    return page_of(rows, page, cursor=lambda row: row.id, show=_view(session, p, rows))


@router.get("/{id}", dependencies=[requires(Scope.READ)])
def one(p: PipelineName, id: CycleId, session: SessionDep) -> CycleView:  # noqa: A002 - the name in the path
    """One cycle."""
    row = cycle_repository.cycle_of(session, repository.pipeline_named(session, p).id, id)
    return _view(session, p, [row])(row)


@router.post("/{id}/cancel", dependencies=[requires(Scope.TRAIN)])
def cancel(p: PipelineName, id: CycleId, session: SessionDep) -> CycleView:  # noqa: A002
    """Stop a cycle that is at work; its training stops at the next heartbeat."""
    row = cycle_repository.cycle_of(session, repository.pipeline_named(session, p).id, id, lock=True)
    cycles.cancel(session, row)
    session.flush()
    return _view(session, p, [row])(row)


def _view(session: SessionDep, pipeline: str, rows: Sequence[Cycle]) -> Callable[[Cycle], CycleView]:
    numbers: dict[uuid.UUID, tuple[int | None, int | None]] = listing_repository.numbers_of(session, rows)
    return lambda row: CycleView.of(row, pipeline, numbers[row.id])
