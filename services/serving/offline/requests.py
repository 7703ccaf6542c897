"""Asking for a generation of offline predictions: by request, and after a release."""

import uuid
from typing import Any

from sqlmodel import Session

from services.serving.offline import repository
from shared.errors import Conflict
from shared.registry.tables import Precompute
from shared.spec import KeysSeen, OfflineSource, PipelineSpec, parse

MOST_QUEUED = 20
"""Generations of one pipeline that may wait."""


def request(session: Session, pipeline_id: uuid.UUID, source: dict[str, Any] | None, requested_by: str) -> Precompute:
    """Write a queued generation and its nudge in the caller's transaction.

    Args:
        source: None: the current spec's, or all keys seen.

    Raises:
        Conflict: too many wait already.
    """
    pipeline = repository.lock_pipeline(session, pipeline_id)
    if len(repository.queued(session, pipeline_id)) >= MOST_QUEUED:
        raise Conflict(
            f"{MOST_QUEUED} generations of this pipeline wait already; ask again when some of them are made."
        )
    if source is None:
        source = _source(parse(repository.current_spec(session, pipeline).spec))
    made = repository.add(session, pipeline, source, trigger="request", requested_by=requested_by)
    assert made is not None, "only a slot can be taken"
    return made


def after_release(session: Session, pipeline_id: uuid.UUID, released_by: str) -> None:
    """In the transaction that moves the deployment pointer: ask for a generation by the new version, if the spec wishes for one.

    One that the schedule or an earlier release asked for and that nobody has taken up will be made by the new version anyway.
    """
    pipeline = repository.lock_pipeline(session, pipeline_id)
    spec = parse(repository.current_spec(session, pipeline).spec)
    if spec.offline is None or not spec.offline.after_promotion:
        return
    source = _source(spec)
    waiting = repository.queued(session, pipeline_id)
    if any(row.version_id is None and row.source == source for row in waiting):
        return
    repository.add(session, pipeline, source, trigger="release", requested_by=released_by)


def _source(spec: PipelineSpec) -> dict[str, Any]:
    source = spec.offline.source if spec.offline else OfflineSource(keys_seen=KeysSeen())
    return source.model_dump(mode="json", exclude_none=True)
