"""Which examples the labels given by prediction id are about, kept by key, so that a build finds those of its window by index.

The prediction log alone has the key of a prediction, in arrays that no index finds, and a label may come before its log row.
Both sides have true watermarks: what was below both when labels were last resolved is resolved, and only the rest is read.
"""

import uuid

from sqlalchemy import select, text
from sqlalchemy.dialects.postgresql import insert
from sqlmodel import Session, col

from shared.registry.session import Sessions
from shared.registry.tables import ResolutionWatermark

ANALYZE_ROWS = 10_000
"""So many new rows are counted at once: the first build reads them before PostgreSQL would by itself."""


def resolve_labels(sessions: Sessions, pipeline_id: uuid.UUID, *, labels: int, predictions: int, query_s: int) -> None:
    """Resolve the pipeline's labels up to these watermarks: the highest sequences of rows that are final.

    Args:
        query_s: how long it may take, and wait for another build that does the same.
    """
    with sessions.begin() as session:
        limits = text("select set_config('statement_timeout', :ms, true), set_config('lock_timeout', :ms, true)")
        session.execute(limits, {"ms": str(query_s * 1000)})
        done = _locked_watermark(session, pipeline_id)
        if labels <= done.label_seq and predictions <= done.prediction_seq:
            return
        wanted = {"labels": max(labels, done.label_seq), "predictions": max(predictions, done.prediction_seq)}
        old = {"old_labels": done.label_seq, "old_predictions": done.prediction_seq}
        resolved = session.scalar(_RESOLVE, {"pipeline": pipeline_id, **old, **wanted})
        if resolved >= ANALYZE_ROWS:
            session.execute(text("analyze resolved_labels"))
        done.label_seq, done.prediction_seq = wanted["labels"], wanted["predictions"]


def _locked_watermark(session: Session, pipeline_id: uuid.UUID) -> ResolutionWatermark:
    session.execute(insert(ResolutionWatermark).values(pipeline_id=pipeline_id).on_conflict_do_nothing())
    query = select(ResolutionWatermark).where(col(ResolutionWatermark.pipeline_id) == pipeline_id)
    return session.scalars(query.with_for_update()).one()


# New labels with all of the log, and earlier labels with what is new in the log.
_RESOLVE = text("""
    with resolved as (
        insert into resolved_labels (label_seq, prediction_seq, pipeline_id, key)
        select label_seq, prediction_seq, :pipeline, key
        from (
            select l.seq as label_seq, r.seq as prediction_seq, r.keys[l.row_index + 1] as key
            from labels l join prediction_requests r on r.request_id = l.request_id and r.pipeline_id = l.pipeline_id
            where l.pipeline_id = :pipeline and l.request_id is not null and l.seq > :old_labels and l.seq <= :labels
              and r.seq <= :predictions
            union all
            select l.seq, r.seq, r.keys[l.row_index + 1]
            from prediction_requests r join labels l on l.request_id = r.request_id and l.pipeline_id = r.pipeline_id
            where r.pipeline_id = :pipeline and r.seq > :old_predictions and r.seq <= :predictions
              and l.seq <= :old_labels
        ) as found
        where key is not null
        returning 1
    )
    select count(*) from resolved
""")
