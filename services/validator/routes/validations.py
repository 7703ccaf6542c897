"""Verdicts: ask for one, look at them, approve or reject what is held."""

import uuid
from collections.abc import Callable
from typing import Annotated

from fastapi import Depends, Path, Request, Response

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


Decide = Callable[..., None]
"""`approval.approve` or `approval.reject`."""


def persons_word(
    *,
    p: PipelineName,
    id: uuid.UUID,  # noqa: A002
    body: Approval,
    session: SessionDep,
    caller: PrincipalDep,
    request: Request,
    key: IdempotencyKey = None,
) -> Callable[[Decide], Response]:
    """What approving and rejecting ask for alike; takes the decision, once for each idempotency key."""

    def take(decide: Decide) -> Response:
        def effect() -> tuple[int, VerdictWithReport]:
            decide(session, p, id, by=caller.name, reason=body.reason)
            return 200, _shown(repository.validation_of(session, p, id))

        return once(session, request, key, effect)

    return take


PersonsWord = Annotated[Callable[[Decide], Response], Depends(persons_word)]


@router.post("/{id}/approve", dependencies=[requires(Scope.VALIDATE)], response_model=VerdictWithReport)
def approve(take: PersonsWord) -> Response:
    """Release a held candidate, if the model it was compared with still serves."""
    return take(approval.approve)


@router.post("/{id}/reject", dependencies=[requires(Scope.VALIDATE)], response_model=VerdictWithReport)
def reject(take: PersonsWord) -> Response:
    """Reject a held candidate."""
    return take(approval.reject)


def _shown(numbered: repository.Numbered) -> VerdictWithReport:
    return VerdictWithReport.of(numbered)
