"""One request scored again by the shadow, and by the live version beside it: the same rows, one after the other, on one core.

The scores that were answered are in the record. The live version runs again for its time alone: what it took to answer holds
waiting and batching, which the shadow does not have.
"""

import math
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import orjson
import structlog

from services.serving.models.catalogue import Catalogue, Pipeline
from services.serving.models.loader import Loaded, refit
from services.serving.prediction_log import record as log_record
from services.serving.shadow.frames import Frame
from services.serving.shadow.report import Outcome
from shared.errors import Invalid, RelevoError

log = structlog.stdlib.get_logger(__name__)

MOST_LOADED = 8
RETRY_S = 30.0
"""A version that could not be loaded is tried again after so long."""
LOOK_S = 1.0
"""Time between two looks for a newer spec, when there are rows that a version cannot read."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """One request's scores by both versions."""

    request_id: uuid.UUID
    requested_at: datetime
    pipeline_id: uuid.UUID
    live_version_id: uuid.UUID
    shadow_version_id: uuid.UUID
    generation: int
    live_scores: list[float]
    """The model's, as they were answered or processed."""
    shadow_scores: list[float]
    live_run_us: int
    """Processor time of feeding and running the model with the request's rows."""
    shadow_run_us: int

    @property
    def largest(self) -> float:
        """The largest |shadow - live|."""
        return float(np.abs(np.subtract(self.shadow_scores, self.live_scores)).max())


class Comparing:
    """Loads versions as they are needed, and compares."""

    def __init__(
        self,
        load: Callable[[Pipeline, int], Loaded],
        catalogue: Callable[[], Catalogue],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare.

        Args:
            load: loads a version.
            catalogue: what serving knows of the registry, read anew.
            clock: monotonic seconds.
        """
        self._load = load
        self._catalogue = catalogue
        self._clock = clock
        self._pipelines: dict[uuid.UUID, Pipeline] = {}
        self._loaded: OrderedDict[tuple[uuid.UUID, int], Loaded] = OrderedDict()
        self._failed_at_s: dict[tuple[uuid.UUID, int], float] = {}
        self._look_from_s = -math.inf

    def compare(self, frame: Frame) -> Comparison | Outcome:
        """One request; why there is no comparison, if there is none."""
        found = self._compare(frame)
        # Serving reads by the newest spec at once; here it is looked for when it is missed.
        return self._compare(frame) if found is Outcome.UNREAD and self._read_newer_specs() else found

    def _compare(self, frame: Frame) -> Comparison | Outcome:
        logged, shadow = log_record.decode(frame.record), frame.shadow
        document = orjson.loads(logged.document)
        pipeline_id = uuid.UUID(document["pipeline"])
        number: int = document["number"]
        found = {wanted: self._version(pipeline_id, wanted) for wanted in (number, shadow)}
        ours, theirs = found[shadow], found[number]
        if ours is None or theirs is None:
            return Outcome.FAILED
        instances = document.get("rows") or document["sent"]["instances"]
        received_at = datetime.fromtimestamp(document["received"] / 1e6, UTC)
        try:
            live_scores = np.asarray(document["scores"], dtype=np.float64)
            _, live_us = _timed(theirs, instances, received_at)
            shadow_scores, shadow_us = _timed(ours, instances, received_at)
        except Invalid:
            return Outcome.UNREAD
        except Exception as error:  # noqa: BLE001 - the model's own trouble, which must not end the others' comparisons
            log.warning(
                "the shadow cannot score a request", model=frame.model, version=shadow, error=type(error).__name__
            )
            return Outcome.FAILED
        if not np.isfinite(shadow_scores).all():
            return Outcome.FAILED
        return Comparison(
            request_id=uuid.UUID(document["request"]),
            requested_at=logged.requested_at,
            pipeline_id=pipeline_id,
            live_version_id=theirs.version.id,
            shadow_version_id=ours.version.id,
            generation=document["generation"],
            live_scores=live_scores.tolist(),
            shadow_scores=shadow_scores.tolist(),
            live_run_us=live_us,
            shadow_run_us=shadow_us,
        )

    def _version(self, pipeline_id: uuid.UUID, number: int) -> Loaded | None:
        wanted = (pipeline_id, number)
        found = self._loaded.get(wanted)
        if found is not None:
            self._loaded.move_to_end(wanted)
            return found
        failed_at_s = self._failed_at_s.get(wanted)
        if failed_at_s is not None and self._clock() - failed_at_s < RETRY_S:
            return None
        try:
            self._read_catalogue()
            found = self._load(self._pipelines[pipeline_id], number)
        except (RelevoError, KeyError) as error:
            self._failed_at_s[wanted] = self._clock()
            log.warning("a version to compare cannot be loaded", version=number, error=str(error))
            return None
        self._failed_at_s.pop(wanted, None)
        self._loaded[wanted] = found
        while len(self._loaded) > MOST_LOADED:
            self._loaded.popitem(last=False)
        return found

    def _read_catalogue(self) -> None:
        self._pipelines = {pipeline.id: pipeline for pipeline in self._catalogue().pipelines.values()}

    def _read_newer_specs(self) -> bool:
        """Have the loaded versions read by their pipelines' newest specs; whether any reads otherwise now."""
        now_s = self._clock()
        if now_s < self._look_from_s:
            return False
        self._look_from_s = now_s + LOOK_S
        self._read_catalogue()
        stale = {
            wanted: (loaded, pipeline)
            for wanted, loaded in self._loaded.items()
            if (pipeline := self._pipelines.get(wanted[0])) is not None and loaded.current_spec != pipeline.spec_version
        }
        self._loaded.update({wanted: refit(loaded, pipeline) for wanted, (loaded, pipeline) in stale.items()})
        return bool(stale)


def _timed(loaded: Loaded, instances: list[object], received_at: datetime) -> tuple[np.ndarray, int]:
    """Scores, and the microseconds of processor time that feeding and running took."""
    rows = loaded.codec.read(instances, received_at)
    began = time.thread_time_ns()
    scores = loaded.model.score(loaded.codec.feeds([rows]))
    return scores, (time.thread_time_ns() - began) // 1000
