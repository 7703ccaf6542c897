"""Rows of the prediction log, as serving ships them."""

import uuid
from datetime import datetime
from typing import Any

from shared.ids import id_time, new_id
from shared.instances import InstanceReader
from shared.registry.session import Sessions, lock_for_ingest
from shared.registry.tables import PredictionRequest
from shared.spec import parse
from tests.unit.data.samples import SPEC


def log_predictions(
    sessions: Sessions,
    pipeline_id: uuid.UUID,
    instances: list[dict[str, Any]],
    at: datetime,
    *,
    pinned: bool = False,
    request_id: uuid.UUID | None = None,
) -> uuid.UUID:
    """Log one request that was answered at `at`; its id."""
    reader = InstanceReader(parse(SPEC))
    rows = [reader.read(instance, received_at=at) for instance in instances]
    request_id = request_id or new_id(at)
    with sessions.begin() as session:
        lock_for_ingest(session)
        session.add(
            PredictionRequest(
                request_id=request_id,
                requested_at=id_time(request_id),
                pipeline_id=pipeline_id,
                version_id=new_id(),
                version_number=1,
                generation=1,
                pinned=pinned,
                keys=[row.key for row in rows],
                event_times=[row.time for row in rows],
                available_ats=[row.available_at for row in rows],
                instances=[row.payload for row in rows],
                scores=[0.5] * len(rows),
                latency_us=100,
                api_key_id="0" * 12,
            )
        )
    return request_id
