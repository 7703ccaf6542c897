"""The use case: rows in, scores out, logged before they leave. Touches no database; what may take long runs in threads."""

import asyncio
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import orjson
import structlog

from services.serving import metrics
from services.serving.config import ServingSettings
from services.serving.errors import LogFull, LogUnwritable
from services.serving.instances import MAX_ERRORS, Envelope, read_envelope, read_rows
from services.serving.models.acquire import load_and_lease
from services.serving.models.catalogue import Pipeline
from services.serving.models.follower import Follower
from services.serving.models.loader import Loaded
from services.serving.models.slots import Lease, ModelSlots
from services.serving.prediction_log.record import encode
from services.serving.prediction_log.spool import Spool
from shared.contracts.scopes import Scope
from shared.errors import FieldError, Invalid, NotFound, Unavailable
from shared.ids import id_time, new_id
from shared.keys import Principal
from shared.prediction_ids import PredictionIds
from shared.web.body import strict_json

log = structlog.stdlib.get_logger(__name__)

INLINE_BODY_BYTES = 32 * 1024
"""A larger body is parsed in a thread: it would hold up the event loop for more than about a tenth of a millisecond."""

MOST_WAITING = 256
"""Pieces of work that may be with the scoring threads or wait for them; what comes on top is told to come back."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Scored:
    """A request's answer and its log record, both as bytes."""

    answer: bytes
    record: bytes
    rows: int
    score_sum: float


class Predictor:
    """Answers prediction requests. Its coroutines belong to one event loop."""

    def __init__(
        self, follower: Follower, slots: ModelSlots, spool: Spool, ids: PredictionIds, settings: ServingSettings
    ) -> None:
        self._follower = follower
        self._slots = slots
        self._spool = spool
        self._ids = ids
        self._settings = settings
        self._pool = ThreadPoolExecutor(settings.score_threads, thread_name_prefix="score")
        self._waiting = 0

    def close(self) -> None:
        """Let the scoring threads end."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def predict(self, body: bytes, *, model: str | None, caller: Principal, caller_request_id: str) -> bytes:
        """Answer one request with JSON bytes; its predictions are in the write-ahead log by then.

        Args:
            body: the request's body, as sent.
            model: the pipeline when the path names it; None when the body may.
            caller: whose key it is; its pipelines and scopes are checked here.
            caller_request_id: the HTTP request's id, logged.

        Raises:
            Malformed, Invalid: the body; nothing was predicted or logged.
            NotFound: no such pipeline or version, or nothing is deployed.
            Forbidden: a version was named without the scope for it.
            NotLoadable: the version named cannot serve.
            Unavailable: the version is still being loaded, too much waits to be scored, or the prediction cannot be logged.
        """
        began_s = time.monotonic()
        request_id = new_id()
        document = await self._maybe_aside(len(body) > INLINE_BODY_BYTES, strict_json, body)
        asked = read_envelope(document, max_instances=self._settings.max_instances, names_model=model is None)
        if asked.version is not None:
            caller.require(Scope.PREDICT_VERSION)
        pipeline = self._choose(model or asked.model, asked, caller)
        with await self._lease(pipeline, asked.version) as lease:
            work = _Work(self._ids, pipeline, lease, request_id, caller.key_id, caller_request_id, began_s)
            scored = await self._maybe_aside(
                self._is_long(lease.loaded, len(asked.instances)), work.score, asked.instances
            )
            self._append(scored)
            version, pinned = str(lease.loaded.version.number), "true" if lease.pinned else "false"
            metrics.PREDICTIONS.labels(pipeline.name, version, pinned).inc(scored.rows)
            metrics.SCORE_SUM.labels(pipeline.name, version, pinned).inc(scored.score_sum)
        metrics.REQUEST_ROWS.observe(scored.rows)
        metrics.REQUEST_SECONDS.labels(pipeline.name).observe(time.monotonic() - began_s)
        return scored.answer

    def _choose(self, name: str | None, asked: Envelope, caller: Principal) -> Pipeline:
        if not self._follower.known:
            raise Unavailable("This replica has not read the registry yet; try again shortly.")
        visible = self._follower.catalogue.visible(caller)
        if name is not None:
            found = next((pipeline for pipeline in visible if pipeline.name == name), None)
            if found is None:
                raise NotFound("There is no pipeline of that name.")
            if found.pointer is None and asked.version is None:
                raise NotFound(f"No version of {name} is deployed yet; a cycle or a promotion deploys one.")
            return found
        deployed = [pipeline for pipeline in visible if pipeline.pointer is not None]
        if not deployed:
            raise NotFound("No model is deployed yet; a cycle or a promotion deploys one.")
        if len(deployed) > 1:
            names = ", ".join(pipeline.name for pipeline in deployed[:MAX_ERRORS])
            error: FieldError = {"loc": ["body", "model"], "msg": f"is required: {names} are deployed"}
            raise Invalid(f"Several models are deployed; name one of them in `model`: {names}.", errors=[error])
        return deployed[0]

    async def _lease(self, pipeline: Pipeline, version: int | None) -> Lease:
        if version is None:
            lease = self._slots.lease_live(pipeline.name)
            if lease is None:
                raise Unavailable(f"The live version of {pipeline.name} is still being loaded; try again shortly.")
            return lease
        pipeline.version(version)
        return self._slots.lease_pinned(pipeline.name, version) or await load_and_lease(
            self._slots, pipeline, version, self._slots.lease_pinned, wait_s=self._settings.load_wait_s
        )

    def _is_long(self, loaded: Loaded, rows: int) -> bool:
        return rows > self._settings.inline_rows or loaded.model.run_s * 1000 > self._settings.inline_run_ms

    async def _maybe_aside(self, aside: bool, call: Callable[[Any], T], argument: Any) -> T:
        if not aside:
            return call(argument)
        if self._waiting >= MOST_WAITING:
            raise Unavailable("This replica has more to score than it can; try again shortly.")
        work = asyncio.get_running_loop().run_in_executor(self._pool, call, argument)
        self._waiting += 1
        work.add_done_callback(self._one_less)
        return await work

    def _one_less(self, _: object) -> None:
        self._waiting -= 1

    def _append(self, scored: _Scored) -> None:
        began_s = time.monotonic()
        try:
            self._spool.append(scored.record)
        except (LogFull, LogUnwritable):
            metrics.LOG_DROPPED.inc(0 if self._settings.log_strict else scored.rows)
            if self._settings.log_strict:
                raise
        metrics.LOG_APPEND_SECONDS.observe(time.monotonic() - began_s)


@dataclass(frozen=True, slots=True)
class _Work:
    """The part of a request that is arithmetic: safe on any thread."""

    ids: PredictionIds
    pipeline: Pipeline
    lease: Lease
    request_id: uuid.UUID
    api_key_id: str
    caller_request_id: str
    began_s: float

    def score(self, instances: list[Any]) -> _Scored:
        loaded, name = self.lease.loaded, self.pipeline.name
        rows = read_rows(loaded.reader, instances, id_time(self.request_id))
        scores = self._finite(loaded.model.score(rows))
        prediction_ids = self.ids.make_batch(name, self.request_id, len(rows))
        answer = orjson.dumps(
            {
                "model": name,
                "model_version": loaded.version.number,
                "predictions": [
                    {"prediction_id": prediction_id, "key": row.key, "score": score}
                    for prediction_id, row, score in zip(prediction_ids, rows, scores, strict=True)
                ],
            }
        )
        record = encode(
            request_id=self.request_id,
            pipeline_id=self.pipeline.id,
            version_id=loaded.version.id,
            version_number=loaded.version.number,
            generation=self.lease.generation,
            pinned=self.lease.pinned,
            rows=rows,
            scores=scores,
            latency_us=round((time.monotonic() - self.began_s) * 1e6),
            api_key_id=self.api_key_id,
            caller_request_id=self.caller_request_id,
        )
        return _Scored(answer, record, len(rows), sum(scores))

    def _finite(self, scores: np.ndarray) -> list[float]:
        bad = np.flatnonzero(~np.isfinite(scores))
        if bad.size:
            name, version = self.pipeline.name, self.lease.loaded.version.number
            metrics.NOT_FINITE.labels(name, str(version)).inc(bad.size)
            log.error("the model gives scores that are not finite", model=name, version=version, rows=int(bad.size))
            errors: list[FieldError] = [
                {
                    "loc": ["body", "instances", int(index)],
                    "msg": f"version {version} gives no finite score for this row",
                }
                for index in bad[:MAX_ERRORS]
            ]
            raise Invalid(
                f"Nothing was predicted: version {version} gives no finite score for {bad.size} row(s).", errors=errors
            )
        values: list[float] = scores.tolist()
        return values
