"""The schedule of a pipeline: look at it, change it, pause it."""

from sqlmodel import Session

from services.trainer import repository, schedule_repository
from services.trainer.routes.names import PipelineName
from services.trainer.schemas import ScheduleChange, ScheduleView
from shared.contracts.scopes import Scope
from shared.registry.tables import Pipeline
from shared.web.auth import GuardedRouter, requires
from shared.web.deps import PrincipalDep, SessionDep

router = GuardedRouter(prefix="/v1/pipelines/{p}/schedule", tags=["schedule"])


@router.get("", dependencies=[requires(Scope.READ)])
def show(p: PipelineName, session: SessionDep) -> ScheduleView:
    """When cycles start by themselves."""
    return _view(session, repository.pipeline_named(session, p))


@router.put("", dependencies=[requires(Scope.TRAIN)])
def change(p: PipelineName, body: ScheduleChange, session: SessionDep, caller: PrincipalDep) -> ScheduleView:
    """Replace the schedule: another cron line, a pause, or (an empty object) back to the pipeline file's."""
    pipeline = repository.pipeline_named(session, p)
    schedule_repository.set_schedule(session, pipeline.id, cron=body.cron, paused=body.paused, changed_by=caller.name)
    return _view(session, pipeline)


def _view(session: Session, pipeline: Pipeline) -> ScheduleView:
    spec, row = repository.spec_row(session, pipeline), schedule_repository.schedule_of(session, pipeline.id)
    own = row.cron if row else None
    return ScheduleView(
        cron=own or spec.spec.get("schedule"),
        source="schedule" if own else "pipeline",
        paused=row.paused if row else False,
        last_slot=schedule_repository.last_slot(session, pipeline.id),
        changed_by=row.changed_by if row else None,
        changed_at=row.changed_at if row else None,
    )
