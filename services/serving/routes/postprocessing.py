"""/admin/models/{p}/postprocessing and /removals: what is done to scores, changed while the model serves, and the story of it."""

from services.serving import repository as registry
from services.serving.postprocessing import repository
from services.serving.postprocessing.removals import KEY
from services.serving.postprocessing.schemas import (
    RemovalChangeView,
    RemovalRequest,
    RemovalResponse,
    RemovalsView,
    RemovedItems,
    StagesChangeView,
    StagesRequest,
    StagesResponse,
    StagesView,
)
from services.serving.routes.state import ServingDep
from shared.contracts.scopes import Scope
from shared.registry.tables import RemovalChange, StagesChange
from shared.spec.types import Name
from shared.web.auth import GuardedRouter, requires
from shared.web.deps import PrincipalDep, SessionDep
from shared.web.pagination import NumberPage, Page, newest_first, page_of

router = GuardedRouter(prefix="/admin/models/{p}", tags=["admin"])


@router.get("/postprocessing", dependencies=[requires(Scope.READ)])
async def get_stages(p: Name, serving: ServingDep) -> StagesView:
    """The stages that this replica applies; answered from memory, also when the registry is away."""
    serving.follower.pipeline(p)
    now = serving.configurations.of(p).all
    return StagesView(
        model=p,
        number=now.number,
        spec_version=now.spec_version,
        stages=list(now.stages),
        newest_number=now.newest,
        problem=now.problem,
    )


@router.put("/postprocessing", dependencies=[requires(Scope.DEPLOY)])
async def put_stages(p: Name, order: StagesRequest, serving: ServingDep, caller: PrincipalDep) -> StagesResponse:
    """Put other stages in the place of those in force, or go back to the pipeline file's."""
    return await serving.postprocessing.order(p, order, caller.name)


@router.get("/postprocessing/history", dependencies=[requires(Scope.READ)])
def stages_history(p: Name, page: NumberPage, session: SessionDep) -> Page[StagesChangeView]:
    """All orders about the stages, newest first: what, who, why."""
    query = repository.stages_query(registry.pipeline_id(session, p))
    rows = session.scalars(newest_first(query, StagesChange.number, page)).all()

    def show(row: StagesChange) -> StagesChangeView:
        return StagesChangeView(
            number=row.number, stages=row.stages, actor=row.actor, reason=row.reason, created_at=row.created_at
        )

    return page_of(rows, page, cursor=lambda row: row.number, show=show)


@router.get("/removals", dependencies=[requires(Scope.READ)])
async def get_removals(p: Name, serving: ServingDep) -> RemovalsView:
    """The removal list that this replica applies; answered from memory, also when the registry is away."""
    key = str(serving.follower.pipeline(p).spec["key"])
    now = serving.configurations.of(p).all.removals
    removed = [
        RemovedItems(field=key if name == KEY else name, items=sorted(items)) for name, items in now.items.items()
    ]
    return RemovalsView(model=p, sequence=now.sequence, count=now.count, removed=removed)


@router.post("/removals", dependencies=[requires(Scope.DEPLOY)])
async def remove(p: Name, order: RemovalRequest, serving: ServingDep, caller: PrincipalDep) -> RemovalResponse:
    """Remove items for good, until they are reinstated: from all lists, and from single predictions."""
    return await serving.postprocessing.remove(p, order, caller.name, removes=True)


@router.post("/removals/reinstate", dependencies=[requires(Scope.DEPLOY)])
async def reinstate(p: Name, order: RemovalRequest, serving: ServingDep, caller: PrincipalDep) -> RemovalResponse:
    """Take items off the removal list."""
    return await serving.postprocessing.remove(p, order, caller.name, removes=False)


@router.get("/removals/history", dependencies=[requires(Scope.READ)])
def removals_history(p: Name, page: NumberPage, session: SessionDep) -> Page[RemovalChangeView]:
    """All changes of the removal list, newest first: what, who, why."""
    pipeline = registry.pipeline_id(session, p)
    key = repository.current_spec(session, pipeline).key
    query = repository.removals_query(pipeline)
    rows = session.scalars(newest_first(query, RemovalChange.sequence, page)).all()

    def show(row: RemovalChange) -> RemovalChangeView:
        return RemovalChangeView(
            sequence=row.sequence,
            action="remove" if row.removes else "reinstate",
            field=key if row.field == KEY else row.field,
            items=row.items,
            actor=row.actor,
            reason=row.reason,
            created_at=row.created_at,
        )

    return page_of(rows, page, cursor=lambda row: row.sequence, show=show)
