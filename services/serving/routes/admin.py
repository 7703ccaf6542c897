"""/admin/models: what serves here, promote, roll back, canary, shadow, and the story of it."""

from typing import Annotated

from fastapi import Query

from services.serving import repository
from services.serving.models.catalogue import Pipeline
from services.serving.routes.state import Serving, ServingDep
from services.serving.schemas import (
    CanaryRequest,
    ChangeView,
    LoadedVersion,
    MadeUnder,
    ModelList,
    ModelView,
    PromoteRequest,
    ReleaseResponse,
    RollbackRequest,
    ShadowRequest,
    beside,
)
from services.serving.shadow.schemas import Disagreement, RunTimes, ScoreDelta, ShadowView
from services.serving.shadow.summary import summarise
from shared.contracts.scopes import Scope
from shared.errors import NotFound
from shared.registry.states import DeploymentAction
from shared.registry.tables import DeploymentChange
from shared.spec.types import Name
from shared.web.auth import GuardedRouter, requires
from shared.web.deps import PrincipalDep, SessionDep
from shared.web.moments import Moment
from shared.web.pagination import NumberPage, Page, newest_first, page_of

router = GuardedRouter(prefix="/admin/models", tags=["admin"])


@router.get("", dependencies=[requires(Scope.READ)])
async def list_models(serving: ServingDep, caller: PrincipalDep) -> ModelList:
    """All pipelines with what serves them, as this replica sees it."""
    return ModelList(items=[_view(serving, pipeline) for pipeline in serving.follower.catalogue.visible(caller)])


@router.get("/{p}", dependencies=[requires(Scope.READ)])
async def get_model(p: Name, serving: ServingDep) -> ModelView:
    """What serves one pipeline, as this replica sees it; answered from memory, also when the registry is away."""
    return _view(serving, serving.follower.pipeline(p))


@router.post("/{p}/promote", dependencies=[requires(Scope.DEPLOY)])
async def promote(p: Name, order: PromoteRequest, serving: ServingDep, caller: PrincipalDep) -> ReleaseResponse:
    """Make a version live. It is loaded and warmed here first, so that a broken artifact never becomes live."""
    return await serving.releases.promote(p, order, caller.name)


@router.post("/{p}/rollback", dependencies=[requires(Scope.DEPLOY)])
async def roll_back(p: Name, order: RollbackRequest, serving: ServingDep, caller: PrincipalDep) -> ReleaseResponse:
    """Make the version live that was before the current one; done again, the one before that."""
    return await serving.releases.roll_back(p, order, caller.name)


@router.post("/{p}/canary", dependencies=[requires(Scope.DEPLOY)])
async def set_canary(p: Name, order: CanaryRequest, serving: ServingDep, caller: PrincipalDep) -> ReleaseResponse:
    """Have a version answer a share of the keys in the live version's stead, another share, or none any more; loaded first."""
    return await serving.releases.set_canary(p, order, caller.name)


@router.post("/{p}/shadow", dependencies=[requires(Scope.DEPLOY)])
async def set_shadow(p: Name, order: ShadowRequest, serving: ServingDep, caller: PrincipalDep) -> ReleaseResponse:
    """Have a version score a share of the requests for comparison, another share, or none any more; loaded first."""
    return await serving.releases.set_shadow(p, order, caller.name)


@router.get("/{p}/shadow", dependencies=[requires(Scope.READ)])
def get_shadow(
    p: Name,
    serving: ServingDep,
    session: SessionDep,
    *,
    version: Annotated[int | None, Query(ge=1, le=2**31 - 1, description="Default: the shadow of now.")] = None,
    live: Annotated[int | None, Query(ge=1, le=2**31 - 1, description="Only compared with this live version.")] = None,
    threshold: Annotated[
        float | None,
        Query(allow_inf_nan=False, description="From where on a score means yes; default 0.5 for a binary pipeline."),
    ] = None,
) -> ShadowView:
    """How the shadow's scores and times differ from those of the live version."""
    pipeline = serving.follower.pipeline(p)
    shadow = pipeline.pointer.shadow if pipeline.pointer else None
    if version is None:
        if shadow is None:
            raise NotFound(f"{p} has no shadow now; name the `version` of one that it had.")
        version = shadow.version
    if threshold is None and pipeline.task == "binary":
        threshold = 0.5
    found = summarise(
        session,
        pipeline.id,
        version=pipeline.version(version).id,
        live=None if live is None else pipeline.version(live).id,
        threshold=threshold,
    )
    return ShadowView(
        model=p,
        shadow=beside(shadow),
        version=version,
        live_version=live,
        requests=found.requests,
        rows=found.rows,
        first_at=found.first_at,
        last_at=found.last_at,
        delta=ScoreDelta(
            mean=found.mean_delta,
            mean_abs=found.mean_abs_delta,
            p50_abs=found.p50_abs_delta,
            p90_abs=found.p90_abs_delta,
            p99_abs=found.p99_abs_delta,
            max_abs=found.max_abs_delta,
        ),
        disagreement=None if threshold is None else Disagreement(threshold=threshold, share=found.disagreement),
        run=RunTimes(live_us=found.live_run_us, shadow_us=found.shadow_run_us, p50_delta_us=found.p50_run_delta_us),
    )


@router.get("/{p}/history", dependencies=[requires(Scope.READ)])
def history(
    p: Name,
    page: NumberPage,
    session: SessionDep,
    at: Annotated[
        Moment | None,
        Query(description="Only changes in effect by then; the first one names what was live at that moment."),
    ] = None,
) -> Page[ChangeView]:
    """All changes of the pointer, newest first: what, who, why, on which verdict."""
    pipeline = repository.pipeline_id(session, p)
    rows = session.scalars(
        newest_first(repository.changes_query(pipeline, at), DeploymentChange.generation, page)
    ).all()
    numbers = repository.version_numbers(
        session,
        (
            id_
            for row in rows
            for id_ in (row.version_id, row.previous_version_id, row.canary_version_id, row.shadow_version_id)
        ),
    )

    def show(row: DeploymentChange) -> ChangeView:
        return ChangeView(
            generation=row.generation,
            action=DeploymentAction(row.action),
            version=numbers[row.version_id],
            previous_version=numbers.get(row.previous_version_id),
            shadow=beside(repository.share_of(numbers.get(row.shadow_version_id), row.shadow_sample)),
            canary=beside(repository.share_of(numbers.get(row.canary_version_id), row.canary_weight)),
            actor=row.actor,
            reason=row.reason,
            validation=row.validation_id,
            override=row.override,
            effective_at=row.effective_at,
            created_at=row.created_at,
        )

    return page_of(rows, page, cursor=lambda row: row.generation, show=show)


def _view(serving: Serving, pipeline: Pipeline) -> ModelView:
    pointer, applied = pipeline.pointer, serving.slots.applied(pipeline.name)
    age_s, processing = serving.follower.age_s, serving.configurations.of(pipeline.name).all
    return ModelView(
        model=pipeline.name,
        task=pipeline.task,
        live_version=pointer.live if pointer else None,
        generation=pointer.generation if pointer else 0,
        previous_version=pointer.previous if pointer else None,
        canary=beside(pointer.canary) if pointer else None,
        shadow=beside(pointer.shadow) if pointer else None,
        applied_version=applied.live if applied else None,
        applied_generation=applied.generation if applied else 0,
        applied_canary=beside(applied.canary) if applied else None,
        applied_postprocessing=MadeUnder(
            number=processing.number, spec_version=processing.spec_version, removals=processing.removals.sequence
        ),
        registry_age_s=None if age_s is None else round(age_s, 3),
        loaded=[
            LoadedVersion(
                version=slot.version,
                state=slot.state,
                live=slot.live,
                canary=slot.canary,
                shadow=slot.shadow,
                pinned=slot.pinned,
                in_flight=slot.in_flight,
                load_s=slot.load_s,
                error=slot.error,
            )
            for slot in serving.slots.report(pipeline.name)
        ],
    )
