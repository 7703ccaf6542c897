"""Serving's SQL on the registry: reading it, and moving the deployment pointer."""

import uuid
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Executable, Select, func, select
from sqlalchemy.orm import aliased
from sqlmodel import Session, col

from services.serving.models.catalogue import Catalogue, Pipeline, Pointer, Share, Version
from services.serving.offline import repository as offline_repository
from services.serving.postprocessing.repository import Newest
from shared.errors import NotFound
from shared.registry import tables
from shared.registry.states import Decision, DeploymentAction
from shared.registry.tables import Deployment, DeploymentChange, ModelVersion, SpecVersion, Validation

# The catalogue


def read_catalogue(session: Session, known: Catalogue) -> Catalogue:
    """The registry as serving needs it. Only a version's state ever changes, so versions and specs are read whole once."""
    session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
    before = {pipeline.id: pipeline for pipeline in known.pipelines.values()}
    states: dict[uuid.UUID, dict[int, str]] = {}
    for pipeline_id, number, state in session.execute(_STATES):
        states.setdefault(pipeline_id, {})[number] = state
    pointers, newest = _pointers(session), Newest(session)
    offline = offline_repository.current(session)
    pipelines = {}
    for row in session.execute(_PIPELINES):
        old = before.get(row.id)
        versions = _versions(session, row.id, states.get(row.id, {}), old.versions if old else {})
        wanted = {row.spec_version, *(version.spec_version for version in versions.values())}
        pipelines[row.name] = Pipeline(
            id=row.id,
            name=row.name,
            spec_version=row.spec_version,
            specs=_specs(session, row.id, wanted, old.specs if old else {}),
            versions=versions,
            pointer=pointers.get(row.id),
            stages_order=newest.stages_order(row.id, old),
            removals=newest.removals(row.id, old),
            offline=offline.get(row.id),
        )
    return Catalogue(pipelines)


def _select_pointers() -> Executable:
    live, previous, canary, shadow = (aliased(ModelVersion) for _ in range(4))
    change = DeploymentChange.__table__  # type: ignore[attr-defined]
    return (
        select(
            col(Deployment.pipeline_id),
            col(Deployment.generation),
            col(live.number).label("live"),
            col(previous.number).label("previous"),
            col(canary.number).label("canary"),
            col(Deployment.canary_weight),
            col(shadow.number).label("shadow"),
            col(Deployment.shadow_sample),
        )
        .join(live, col(live.id) == Deployment.live_version_id)
        .outerjoin(canary, col(canary.id) == Deployment.canary_version_id)
        .outerjoin(shadow, col(shadow.id) == Deployment.shadow_version_id)
        .outerjoin(
            change, (change.c.pipeline_id == Deployment.pipeline_id) & (change.c.generation == Deployment.generation)
        )
        .outerjoin(previous, col(previous.id) == change.c.previous_version_id)
    )


# Made once: making a statement takes longer than having it answered, and these are asked each second.
_STATES = select(col(ModelVersion.pipeline_id), col(ModelVersion.number), col(ModelVersion.state))
_POINTERS = _select_pointers()
_PIPELINES = select(col(tables.Pipeline.id), col(tables.Pipeline.name), col(tables.Pipeline.spec_version))


def _pointers(session: Session) -> dict[uuid.UUID, Pointer]:
    return {
        row.pipeline_id: Pointer(
            generation=row.generation,
            live=row.live,
            previous=row.previous,
            canary=share_of(row.canary, row.canary_weight),
            shadow=share_of(row.shadow, row.shadow_sample),
        )
        for row in session.execute(_POINTERS)
    }


def share_of(version: int | None, share: float | None) -> Share | None:
    """What a version's number and its share, in columns that are both null or neither, mean."""
    return None if version is None or share is None else Share(version, share)


def _versions(
    session: Session, pipeline_id: uuid.UUID, states: Mapping[int, str], known: Mapping[int, Version]
) -> dict[int, Version]:
    stale = [number for number, state in states.items() if number not in known or known[number].state != state]
    versions = {number: version for number, version in known.items() if number in states}
    if stale:
        query = select(ModelVersion).where(
            col(ModelVersion.pipeline_id) == pipeline_id, col(ModelVersion.number).in_(stale)
        )
        versions |= {row.number: _version(row) for row in session.scalars(query)}
    return versions


def _version(row: ModelVersion) -> Version:
    return Version(
        id=row.id,
        number=row.number,
        state=row.state,
        digest=row.digest,
        signature=row.signature,
        spec_version=row.spec_version,
        train_end=row.train_end,
        train_label_mean=row.train_label_mean,
    )


def _specs(
    session: Session, pipeline_id: uuid.UUID, wanted: set[int], known: Mapping[int, Mapping[str, Any]]
) -> dict[int, Mapping[str, Any]]:
    specs = {number: spec for number, spec in known.items() if number in wanted}
    if missing := wanted - specs.keys():
        query = select(SpecVersion).where(
            col(SpecVersion.pipeline_id) == pipeline_id, col(SpecVersion.number).in_(missing)
        )
        specs |= {row.number: row.spec for row in session.scalars(query)}
    return specs


# Releases


def pipeline_id(session: Session, name: str) -> uuid.UUID:
    """The id of a pipeline.

    Raises:
        NotFound: there is none of that name.
    """
    found = session.scalar(select(col(tables.Pipeline.id)).where(col(tables.Pipeline.name) == name))
    if found is None:
        raise NotFound("There is no pipeline of that name.")
    return found


def find_version(session: Session, pipeline: uuid.UUID, number: int) -> ModelVersion:
    """A version by number.

    Raises:
        NotFound: the pipeline has none of that number.
    """
    query = select(ModelVersion).where(col(ModelVersion.pipeline_id) == pipeline, col(ModelVersion.number) == number)
    found = session.scalar(query)
    if found is None:
        raise NotFound(f"There is no version {number} of this pipeline.")
    return found


def locked_pointer(session: Session, pipeline: uuid.UUID) -> Deployment | None:
    """The deployment row, held against other changes until the transaction ends; None before the first deployment."""
    return session.get(Deployment, pipeline, with_for_update=True)


def promoting_verdict(session: Session, version: ModelVersion, validation: uuid.UUID | None) -> Validation | None:
    """The latest verdict that promotes the version, or the one named if it does."""
    query = select(Validation).where(
        col(Validation.candidate_id) == version.id,
        col(Validation.pipeline_id) == version.pipeline_id,
        col(Validation.decision) == Decision.PROMOTE,
    )
    if validation is not None:
        query = query.where(col(Validation.id) == validation)
    return session.scalar(query.order_by(col(Validation.id).desc()).limit(1))


def write_pointer(session: Session, current: Deployment | None, change: DeploymentChange) -> Deployment:
    """Move the pointer and write the history row; the pointer as it is then.

    Raises:
        IntegrityError: another change came first, or the database finds no verdict.
    """
    now = session.execute(select(func.now())).scalar_one()
    pointer = current or Deployment(
        pipeline_id=change.pipeline_id, generation=0, live_version_id=change.version_id, updated_at=now
    )
    pointer.generation, pointer.live_version_id, pointer.updated_at = change.generation, change.version_id, now
    pointer.canary_version_id, pointer.canary_weight = change.canary_version_id, change.canary_weight
    pointer.shadow_version_id, pointer.shadow_sample = change.shadow_version_id, change.shadow_sample
    if change.action in (DeploymentAction.PROMOTE, DeploymentAction.ROLLBACK):
        pointer.override = change.override
    if change.action == DeploymentAction.CANARY or change.canary_version_id is None:
        pointer.canary_override = None if change.canary_version_id is None else change.override
    session.add(pointer)
    session.flush()
    session.add(change)
    session.flush()
    return pointer


def all_changes(session: Session, pipeline: uuid.UUID) -> Sequence[DeploymentChange]:
    """The whole history, oldest first."""
    query = select(DeploymentChange).where(col(DeploymentChange.pipeline_id) == pipeline)
    return session.scalars(query.order_by(col(DeploymentChange.generation))).all()


def version_numbers(session: Session, ids: Iterable[uuid.UUID | None]) -> dict[uuid.UUID | None, int]:
    """The numbers of versions by id, those that are None left out."""
    query = select(ModelVersion).where(col(ModelVersion.id).in_({id_ for id_ in ids if id_ is not None}))
    return {row.id: row.number for row in session.scalars(query)}


def changes_query(pipeline: uuid.UUID, at: datetime | None) -> "Select[DeploymentChange]":
    """History rows; with `at`, those that were in effect by then (in a replay: by the simulated time)."""
    query = select(DeploymentChange).where(col(DeploymentChange.pipeline_id) == pipeline)
    if at is not None:
        query = query.where(func.coalesce(DeploymentChange.effective_at, DeploymentChange.created_at) <= at)
    return query
