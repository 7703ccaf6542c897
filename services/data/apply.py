"""Applying a pipeline file: a new pipeline, a new immutable spec version, or nothing when nothing changed."""

from dataclasses import dataclass, field

from sqlalchemy.exc import IntegrityError
from sqlmodel import Session

from services.data import repository
from shared.errors import Conflict
from shared.registry.tables import Pipeline, SpecVersion
from shared.spec import PipelineSpec, changes, parse, spec_digest


@dataclass(frozen=True)
class Applied:
    """What applying a spec did, or would do."""

    action: str
    """create, update or unchanged."""
    spec_version: int
    """The version that is then current."""
    digest: str
    changes: list[str] = field(default_factory=list)
    """Each field that differs from the version before, as `path: old -> new`."""


def apply_spec(session: Session, spec: PipelineSpec, *, by: str, dry_run: bool = False) -> Applied:
    """Make `spec` the current one of its pipeline, in the caller's transaction.

    Args:
        by: name of the API key that asks.
        dry_run: tell what would happen and store nothing.

    Raises:
        Invalid: it changes what must stay (key, time, task, label name).
        Conflict: somebody else creates the pipeline at this moment.
    """
    digest = spec_digest(spec)
    pipeline = repository.find_pipeline(session, spec.name, lock=not dry_run)
    if pipeline is None:
        applied = Applied("create", 1, digest)
        if not dry_run:
            _create(session, spec)
    else:
        current = repository.get_spec(session, pipeline.id, pipeline.spec_version)
        if current.digest == digest:
            return Applied("unchanged", current.number, digest)
        applied = Applied("update", current.number + 1, digest, changes(parse(current.spec), spec))
    if not dry_run:
        pipeline = pipeline or repository.get_pipeline(session, spec.name)
        pipeline.spec_version = applied.spec_version
        document = spec.model_dump(mode="json")
        session.add(
            SpecVersion(
                pipeline_id=pipeline.id, number=applied.spec_version, digest=digest, spec=document, created_by=by
            )
        )
        session.flush()
    return applied


def _create(session: Session, spec: PipelineSpec) -> None:
    session.add(Pipeline(name=spec.name, spec_version=1))
    try:
        session.flush()
    except IntegrityError:
        raise Conflict("The pipeline is being created by another request; send it again.") from None
