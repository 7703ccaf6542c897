"""Verdicts: ask for one, look at them, approve or reject what is held."""

import uuid
from typing import Annotated

from fastapi import Path, Request, Response

from services.validator import approval, repository
from services.validator.request_validation import request_validation
from services.validator.schemas import Approval, ValidationCreate, Verdict, VerdictWithReport
from shared.contracts.scopes import Scope
from shared.spec.types import Name
from shared.web.auth import GuardedRouter, requires
from shared.web.deps import PrincipalDep, SessionDep
from shared.web.idempotency import IdempotencyKey, once
from shared.web.pagination import IdPage, Page, page_of

router = GuardedRouter(prefix="/v1/pipelines/{p}/validations", tags=["validations"])

PipelineName = Annotated[Name, Path()]


@router.post("", status_code=202, response_model=VerdictWithReport, dependencies=[requires(Scope.VALIDATE)])
def ask(
    p: PipelineName, body: ValidationCreate, session: SessionDep, request: Request, key: IdempotencyKey = None
) -> Response:
    """Judge a version against the one in production; when it is not worse, it is released."""

    def effect() -> tuple[int, VerdictWithReport]:
        row = request_validation(session, p, body)
        return 202, _shown(repository.validation_of(session, p, row.id))

    return once(session, request, key, effect)


@router.get("", dependencies=[requires(Scope.READ)])
def list_all(p: PipelineName, session: SessionDep, page: IdPage) -> Page[Verdict]:
    """Validations, newest first, without their reports."""
    repository.pipeline_by_name(session, p)
    rows = repository.validations_page(session, p, page)
    return page_of(rows, page, cursor=lambda one: one.row.id, show=Verdict.of)


@router.get("/{id}", dependencies=[requires(Scope.READ)])
def one(p: PipelineName, id: uuid.UUID, session: SessionDep) -> VerdictWithReport:  # noqa: A002 - the name in the path
    """One validation with its report."""
    return _shown(repository.validation_of(session, p, id))


@router.post("/{id}/approve", dependencies=[requires(Scope.VALIDATE)], response_model=VerdictWithReport)
def approve(
    *,
    p: PipelineName,
    id: uuid.UUID,  # noqa: A002
    body: Approval,
    session: SessionDep,
    caller: PrincipalDep,
    request: Request,
    key: IdempotencyKey = None,
) -> Response:
    """Release a held candidate, if the model it was compared with still serves."""

    def effect() -> tuple[int, VerdictWithReport]:
        approval.approve(session, p, id, by=caller.name, reason=body.reason)
        return 200, _shown(repository.validation_of(session, p, id))

    return once(session, request, key, effect)


@router.post("/{id}/reject", dependencies=[requires(Scope.VALIDATE)], response_model=VerdictWithReport)
def reject(
    *,
    p: PipelineName,
    id: uuid.UUID,  # noqa: A002
    body: Approval,
    session: SessionDep,
    caller: PrincipalDep,
    request: Request,
    key: IdempotencyKey = None,
) -> Response:
    """Reject a held candidate."""

    def effect() -> tuple[int, VerdictWithReport]:
        approval.reject(session, p, id, by=caller.name, reason=body.reason)
        return 200, _shown(repository.validation_of(session, p, id))

    return once(session, request, key, effect)


def _shown(numbered: repository.Numbered) -> VerdictWithReport:
    return VerdictWithReport.of(numbered)
