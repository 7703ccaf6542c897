"""Asking for a validation: what may be compared with what, checked before the row is written."""

import uuid

from sqlmodel import Session

from services.validator import repository
from services.validator.schemas import ValidationCreate
from shared.errors import Conflict, Invalid
from shared.ids import new_id
from shared.jobs import lease as leases
from shared.jobs.work import VALIDATION
from shared.registry.states import DatasetState, VersionState
from shared.registry.tables import Dataset, Validation


def request_validation(session: Session, pipeline: str, body: ValidationCreate) -> Validation:
    """Write the row and its nudge, in the caller's transaction.

    Raises:
        NotFound: no such pipeline.
        Invalid: a version or cycle that the pipeline does not have, or a combination that makes no sense.
        Conflict: the version serves already, is retired, or its test rows are gone.
    """
    owner = repository.pipeline_by_name(session, pipeline)
    candidate = repository.version_by_number(session, owner.id, body.candidate, field="candidate")
    baseline = (
        None
        if body.baseline is None
        else repository.version_by_number(session, owner.id, body.baseline, field="baseline")
    )
    _check_combination(session, body, owner.id)
    if candidate.state == VersionState.RETIRED:
        raise Conflict(f"Version {candidate.number} is retired; train a new one.")
    dataset = session.get_one(Dataset, candidate.dataset_id)
    if dataset.state != DatasetState.READY:
        raise Conflict(f"The test rows of version {candidate.number} are gone: its dataset is {dataset.state}.")
    deployment = repository.deployment_of(session, owner.id)
    if baseline is None and deployment is not None and deployment.live_version_id == candidate.id:
        raise Conflict(
            f"Version {candidate.number} is in production already; name a `baseline` to compare it with another version."
        )
    row = Validation(
        id=new_id(),
        pipeline_id=owner.id,
        candidate_id=candidate.id,
        requested_baseline_id=baseline.id if baseline else None,
        cycle_id=body.cycle,
    )
    session.add(row)
    session.flush()
    leases.nudge(session, VALIDATION, row.id)
    session.refresh(row)
    return row


def _check_combination(session: Session, body: ValidationCreate, pipeline_id: uuid.UUID) -> None:
    if body.baseline == body.candidate:
        raise Invalid(
            "A version cannot be compared with itself.",
            errors=[{"loc": ["body", "baseline"], "msg": "is the candidate itself"}],
        )
    if body.cycle is None:
        return
    if body.baseline is not None:
        raise Invalid(
            "A cycle's candidate is always compared with the model in production.",
            errors=[{"loc": ["body", "baseline"], "msg": "cannot be named together with a cycle"}],
        )
    if not repository.cycle_exists(session, pipeline_id, body.cycle):
        raise Invalid(
            "The pipeline has no cycle with that id.", errors=[{"loc": ["body", "cycle"], "msg": "no such cycle"}]
        )
