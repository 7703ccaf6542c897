"""The use case: a request's rows in, scores out, logged before they leave. Touches no database; what takes long runs in threads."""

import time
from collections.abc import Callable
from typing import TypeVar

from services.serving.candidates import by_key, read_list_request
from services.serving.config import ServingSettings
from services.serving.instances import read_envelope
from services.serving.lane import Job, Write
from services.serving.lanes import Lanes
from services.serving.models.catalogue import Pipeline
from services.serving.models.follower import Follower
from services.serving.models.loader import Loaded
from services.serving.models.slots import Lease, ModelSlots
from services.serving.postprocessing.answers import Ranking
from services.serving.postprocessing.current import Configurations
from services.serving.prediction_log.spool import Spool
from services.serving.promised import Promised
from services.serving.rows import Asked, Row
from services.serving.shadow.mirror import Mirror
from services.serving.terms import Terms, Urgency
from services.serving.versions import Versions
from shared.contracts.scopes import Scope
from shared.instances import from_epoch_us
from shared.prediction_ids import PredictionIds
from shared.web.body import strict_json
from shared.web.raw import Answer, Call, Waiting

INLINE_BODY_BYTES = 256 * 1024
"""A larger body is parsed in a thread: it would hold up the event loop for more than about half a millisecond."""

MOST_NAME = 96
"""Bytes after the word `model` in which the name is looked for."""

Read = Callable[[Loaded], tuple[list[Row], Write | None]]
"""The rows of a request for a version, and what writes its answer; None: as that of `/predict`."""

T = TypeVar("T")


class Predictor:
    """Answers prediction requests. Its coroutines belong to one event loop."""

    def __init__(
        self,
        follower: Follower,
        slots: ModelSlots,
        spool: Spool,
        ids: PredictionIds,
        *,
        configurations: Configurations,
        settings: ServingSettings,
        mirror: Mirror,
    ) -> None:
        self.lanes = Lanes(spool, ids, configurations=configurations, settings=settings, mirror=mirror)
        self._versions = Versions(follower, slots, load_wait_s=settings.load_wait_s)
        self._settings = settings
        self._terms = Terms(settings)

    async def predict(self, call: Call, model: str | None) -> Answer:
        """Answer one request with JSON bytes; its predictions are in the write-ahead log by then.

        Args:
            call: the request; the caller's pipelines and scopes are checked here.
            model: the pipeline when the path names it; None when the body may.

        Raises:
            Malformed, Invalid: the body; nothing was predicted or logged.
            NotFound: no such pipeline or version, or nothing is deployed.
            Forbidden: a version was named without the scope for it.
            NotLoadable: the version named cannot serve.
            KeyTooFast: the key asks more often than it may.
            Overloaded, DeadlinePassed: too much waits for it to be scored in time.
            Unavailable: the version is still being loaded, or the prediction cannot be logged.
        """
        began_s = time.perf_counter()
        urgency, unchecked = self._begin(call, began_s)
        if unchecked is None:
            read = await self.lanes.aside(self._read_at_once, call, model, None)
        else:
            read = self._read_at_once(call, model, unchecked)
        asked, lease = read or await self._read_carefully(call, model, unchecked)
        with lease:
            job = Job(asked.rows, call.body if asked.as_sent else None, call, lease, *urgency, began_s, replays=True)
            return (await self.lanes.of(lease.loaded).batcher.submit(job)).answer

    def express(self, call: Call, model: str | None, waiting: Waiting) -> bool:
        """Begin to answer a good request to a live version; False, with nothing done, for any other.

        Args:
            call, model: as for `predict`.
            waiting: told the answer, or what `predict` would raise.

        Raises:
            As `predict`, before anything has begun.
        """
        began_s = time.perf_counter()
        urgency = self._terms.of(call.headers, call.caller, began_s)
        read = self._read_at_once(call, model, urgency)
        if read is None:
            self._terms.undo(call.caller)
            return False
        asked, lease = read
        try:
            job = Job(asked.rows, call.body if asked.as_sent else None, call, lease, *urgency, began_s, replays=True)
            self.lanes.of(lease.loaded).batcher.put(job, Promised(waiting, lease))
        except BaseException:
            lease.release()
            raise
        return True

    async def infer(self, call: Call, model: str, version: int | None, read: Read, *, body_bytes: int) -> Answer:
        """Answer one request of another protocol; as `predict` in all else.

        Args:
            version: one that the caller names.
            read: reads the call's rows for the version that answers; in a thread when the body is large.
            body_bytes: of the body, as far as it is rows to score.
        """
        began_s = time.perf_counter()
        if version is not None:
            call.caller.require(Scope.PREDICT_VERSION)
        urgency, unchecked = self._begin(call, began_s)
        pipeline = self._versions.choose(model, version, call.caller)
        (rows, write), lease = await self._lease_and_read(
            call, pipeline, version, read, unchecked, body_bytes=body_bytes
        )
        with lease:
            job = Job(rows, None, call, lease, *urgency, began_s, write)
            return (await self.lanes.of(lease.loaded).batcher.submit(job)).answer

    async def rank(self, call: Call, model: str) -> Answer:
        """Answer one request for a list; as `predict` in all else."""
        began_s = time.perf_counter()
        (urgency, unchecked), most = self._begin(call, began_s), self._settings.max_instances
        read_list = read_list_request
        asked = await self.lanes.aside(read_list, call.body, most) if unchecked is None else read_list(call.body, most)
        if asked.version is not None:
            call.caller.require(Scope.PREDICT_VERSION)

        def read(loaded: Loaded) -> tuple[list[Row], Ranking]:
            rows = loaded.codec.read(asked.candidates, from_epoch_us(call.received_us), name="candidates")
            return by_key(rows, asked)

        pipeline = self._versions.choose(model, asked.version, call.caller)
        body_bytes = len(call.body)
        (rows, ranking), lease = await self._lease_and_read(
            call, pipeline, asked.version, read, unchecked, body_bytes=body_bytes
        )
        with lease:
            job = Job(rows, None, call, lease, *urgency, began_s, ranking=ranking)
            return (await self.lanes.of(lease.loaded).batcher.submit(job)).answer

    async def _lease_and_read(
        self,
        call: Call,
        pipeline: Pipeline,
        version: int | None,
        read: Callable[[Loaded], tuple[list[Row], T]],
        unchecked: Urgency | None,
        *,
        body_bytes: int,
    ) -> tuple[tuple[list[Row], T], Lease]:
        """What is read for the version that answers, and its lease."""

        async def read_for(loaded: Loaded) -> tuple[list[Row], T]:
            return await self.lanes.aside(read, loaded) if unchecked is None else read(loaded)

        lease = await self._versions.lease(pipeline, version)
        if unchecked is not None:
            self.lanes.let_in(lease, unchecked, body_bytes)
        try:
            found = await read_for(lease.loaded)
        except BaseException:
            lease.release()
            raise
        if lease.canary is None:
            return found, lease
        return await self._versions.by_canary(call, lease, found[0], read_for) or (found, lease)

    def _begin(self, call: Call, began_s: float) -> tuple[Urgency, Urgency | None]:
        """A request's urgency; and once more when it may still be refused before it is read, None for a large one, let in now."""
        urgency = self._terms.of(call.headers, call.caller, began_s)
        if len(call.body) <= INLINE_BODY_BYTES:
            return urgency, urgency
        self.lanes.let_in_large(urgency)
        return urgency, None

    def _read_at_once(self, call: Call, model: str | None, unchecked: Urgency | None) -> tuple[Asked, Lease] | None:
        """For a good request to a live version; None for any other, which is then read carefully."""
        name = model or _named_in(call.body)
        lease = self._versions.live(name, call.caller)
        if lease is None:
            return None
        if unchecked is not None:
            self.lanes.let_in(lease, unchecked, len(call.body))
        try:
            return self._decoded(call, lease, name=name, names_model=model is None)
        except BaseException:
            lease.release()
            raise

    def _decoded(self, call: Call, lease: Lease, *, name: str | None, names_model: bool) -> tuple[Asked, Lease] | None:
        """The request as the decoder reads it, and the lease of the version that answers; the one given ends unless it is this."""
        most = self._settings.max_instances
        asked = lease.loaded.codec.decode(call.body, call.received_us, max_instances=most, names_model=names_model)
        # The name was found by looking at bytes: what was decoded decides.
        if asked is None or asked.version is not None or (names_model and asked.model != name):
            lease.release()
            return None
        if lease.canary is None or (taken := self._versions.take_canary(call, lease, asked.rows)) is None:
            return asked, lease
        if not taken.loaded.reads_as(lease.loaded):
            codec = taken.loaded.codec
            asked = codec.decode(call.body, call.received_us, max_instances=most, names_model=names_model)
        lease.release()
        if asked is None:
            taken.release()
            return None
        return asked, taken

    async def _read_carefully(self, call: Call, model: str | None, unchecked: Urgency | None) -> tuple[Asked, Lease]:
        large = unchecked is None
        document = await self.lanes.aside(strict_json, call.body) if large else strict_json(call.body)
        asked = read_envelope(document, max_instances=self._settings.max_instances, names_model=model is None)
        if asked.version is not None:
            call.caller.require(Scope.PREDICT_VERSION)
        pipeline = self._versions.choose(model or asked.model, asked.version, call.caller)

        async def read(loaded: Loaded) -> list[Row]:
            instances, received_at = asked.instances, from_epoch_us(call.received_us)
            if large:
                return await self.lanes.aside(loaded.codec.read, instances, received_at)
            return loaded.codec.read(instances, received_at)

        lease = await self._versions.lease(pipeline, asked.version)
        if unchecked is not None:
            self.lanes.let_in(lease, unchecked, len(call.body))
        try:
            rows = await read(lease.loaded)
        except BaseException:
            lease.release()
            raise
        if lease.canary is not None:
            rows, lease = await self._versions.by_canary(call, lease, rows, read) or (rows, lease)
        return Asked(rows, asked.model, asked.version, as_sent=False), lease


def _named_in(body: bytes) -> str | None:
    """The model that the body seems to name; only a guess, since a row may hold a field of that name."""
    at = body.find(b'"model"')
    if at < 0:
        return None
    parts = body[at + 7 : at + 7 + MOST_NAME].split(b'"', 2)
    return parts[1].decode("latin-1") if len(parts) > 1 else None
