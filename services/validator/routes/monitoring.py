"""How the models in production do, day by day of event time."""

import re
from datetime import UTC, date, datetime, timedelta
from typing import Annotated

from fastapi import Path, Query
from pydantic import AwareDatetime, BeforeValidator

from services.validator import monitoring_repository, repository
from services.validator.schemas import DayView, LiveView, Monitoring
from shared.contracts.scopes import Scope
from shared.errors import Invalid
from shared.instances import read_moment
from shared.spec.types import Name
from shared.web.auth import GuardedRouter, requires
from shared.web.deps import SessionDep

router = GuardedRouter(prefix="/v1/pipelines/{p}/monitoring", tags=["monitoring"])

MOST_DAYS = 1000
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")


def _read(value: object) -> object:
    """A day, or a moment with its offset; never a bare number, which could be either."""
    if not isinstance(value, str):
        return value
    try:
        return date.fromisoformat(value) if _DAY.fullmatch(value) else read_moment(value)
    except ValueError:
        raise ValueError("must be a day, such as 2013-01-31, or a moment, such as 2013-01-31T17:00:00-05:00") from None


Moment = Annotated[AwareDatetime | date, BeforeValidator(_read)]


@router.get("", dependencies=[requires(Scope.READ)])
def monitoring(
    p: Annotated[Name, Path()],
    session: SessionDep,
    start: Annotated[Moment | None, Query(alias="from", description="First moment (or UTC day) of event time.")] = None,
    end: Annotated[
        Moment | None, Query(alias="to", description="Moment before which it ends; a day is included.")
    ] = None,
) -> Monitoring:
    """Count, mean prediction and label, bias, quality and model age of each UTC day; at most the newest 1,000 days."""
    pipeline = repository.pipeline_by_name(session, p)
    first, last = _first_day(start), _last_day(end)
    if first and last and first > last:
        raise Invalid(
            "`from` is later than `to`.", errors=[{"loc": ["query", "from"], "msg": "must not be later than `to`"}]
        )
    spec = repository.spec_of(session, pipeline.id, pipeline.spec_version)
    rows = monitoring_repository.days_of(session, pipeline.id, first, last, MOST_DAYS)
    live = monitoring_repository.live_pipelines(session, pipeline.id)
    tolerance = spec.monitoring.bias_tolerance
    return Monitoring(
        pipeline=p,
        task=spec.task,
        bias_tolerance=tolerance,
        live=LiveView.of(live[0]) if live else None,
        up_to_date=not monitoring_repository.pipelines_with_news(session, pipeline.id),
        days=[DayView.of(row, tolerance) for row in rows],
    )


def _first_day(moment: Moment | None) -> date | None:
    return _utc_day(moment) if isinstance(moment, datetime) else moment


def _last_day(moment: Moment | None) -> date | None:
    """A moment ends the range just before itself: midnight does not reach into the day it begins."""
    if not isinstance(moment, datetime):
        return moment
    return _utc_day(moment - timedelta(microseconds=1))


def _utc_day(moment: datetime) -> date:
    return moment.astimezone(UTC).date()
