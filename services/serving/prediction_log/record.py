"""One answered request as it is logged: from the answer to bytes in a segment, and from those to a database row."""

import uuid
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson

from shared.ids import id_time
from shared.instances import Instance, epoch_us, from_epoch_us


@dataclass(frozen=True, slots=True)
class PredictionRecord:
    """One answered /predict request: the columns of `prediction_requests` that serving knows."""

    request_id: uuid.UUID
    pipeline_id: uuid.UUID
    version_id: uuid.UUID
    version_number: int
    generation: int
    pinned: bool
    keys: list[str]
    event_times: list[datetime]
    available_ats: list[datetime]
    instances: list[dict[str, Any]]
    scores: list[float]
    latency_us: int
    api_key_id: str
    caller_request_id: str

    @property
    def requested_at(self) -> datetime:
        """The request id's own time: with the id it makes the row's key, so a row shipped twice is recognised."""
        return id_time(self.request_id)


def encode(
    *,
    request_id: uuid.UUID,
    pipeline_id: uuid.UUID,
    version_id: uuid.UUID,
    version_number: int,
    generation: int,
    pinned: bool,
    rows: list[Instance],
    scores: list[float],
    latency_us: int,
    api_key_id: str,
    caller_request_id: str,
) -> bytes:
    """The payload of one log frame."""
    return orjson.dumps(
        {
            "request": request_id.hex,
            "pipeline": pipeline_id.hex,
            "version": version_id.hex,
            "number": version_number,
            "generation": generation,
            "pinned": pinned,
            "keys": [row.key for row in rows],
            "times": [epoch_us(row.time) for row in rows],
            "available": [epoch_us(row.available_at) for row in rows],
            "instances": [row.payload for row in rows],
            "scores": scores,
            "latency_us": latency_us,
            "api_key": api_key_id,
            "caller_request": caller_request_id,
        }
    )


def decode(payload: bytes) -> PredictionRecord:
    """The record of one log frame.

    Raises:
        ValueError: the payload is not one that `encode` made.
    """
    try:
        fields = orjson.loads(payload)
        return PredictionRecord(
            request_id=uuid.UUID(hex=fields["request"]),
            pipeline_id=uuid.UUID(hex=fields["pipeline"]),
            version_id=uuid.UUID(hex=fields["version"]),
            version_number=fields["number"],
            generation=fields["generation"],
            pinned=fields["pinned"],
            keys=fields["keys"],
            event_times=[from_epoch_us(value) for value in fields["times"]],
            available_ats=[from_epoch_us(value) for value in fields["available"]],
            instances=fields["instances"],
            scores=fields["scores"],
            latency_us=fields["latency_us"],
            api_key_id=fields["api_key"],
            caller_request_id=fields["caller_request"],
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"a log frame lacks or misstates a field: {error}") from None
