"""Alerts: what a person should look at, and that someone did."""

import uuid
from typing import Annotated

from fastapi import Path

from services.validator import repository
from services.validator.schemas import AlertView
from shared.contracts.scopes import Scope
from shared.spec.types import Name
from shared.web.auth import GuardedRouter, requires
from shared.web.deps import PrincipalDep, SessionDep
from shared.web.pagination import IdPage, Page, page_of

router = GuardedRouter(prefix="/v1/pipelines/{p}/alerts", tags=["alerts"])

PipelineName = Annotated[Name, Path()]


@router.get("", dependencies=[requires(Scope.READ)])
def list_all(p: PipelineName, session: SessionDep, page: IdPage) -> Page[AlertView]:
    """Alerts, newest first."""
    pipeline = repository.pipeline_by_name(session, p)
    rows = repository.alerts_page(session, pipeline.id, page)
    return page_of(rows, page, cursor=lambda one: one.id, show=AlertView.of)


@router.post("/{id}/acknowledge", dependencies=[requires(Scope.VALIDATE)])
def acknowledge(p: PipelineName, id: uuid.UUID, session: SessionDep, caller: PrincipalDep) -> AlertView:  # noqa: A002
    """Mark an alert as seen; a second time changes nothing."""
    pipeline = repository.pipeline_by_name(session, p)
    alert = repository.acknowledged(session, pipeline.id, id, by=caller.name)
    return AlertView.of(alert)
