"""The use case: a request's rows in, scores out, logged before they leave. Touches no database; what takes long runs in threads."""

import asyncio
import contextlib
import os
import random
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from services.serving import assignment, metrics
from services.serving.admission import Backlog, Priority
from services.serving.candidates import by_key, read_list_request
from services.serving.config import ServingSettings
from services.serving.instances import MAX_ERRORS, read_envelope
from services.serving.lane import Job, Lane, Write
from services.serving.models.acquire import load_and_lease
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
from services.serving.terms import Terms
from shared.contracts.scopes import Scope
from shared.errors import FieldError, Invalid, Malformed, NotFound, Unavailable
from shared.instances import from_epoch_us
from shared.keys import Principal
from shared.prediction_ids import PredictionIds
from shared.web.body import strict_json
from shared.web.raw import Answer, Call, Waiting

INLINE_BODY_BYTES = 256 * 1024
"""A larger body is parsed in a thread: it would hold up the event loop for more than about half a millisecond."""

MOST_WAITING = 256
"""Large bodies that may be parsed or wait for it; what comes on top is told to come back."""

MOST_NAME = 96
"""Bytes after the word `model` in which the name is looked for."""

Read = Callable[[Loaded], tuple[list[Row], Write | None]]
"""The rows of a request for a version, and what writes its answer; None: as that of `/predict`."""

NICE = 10
"""Of scoring threads, on Linux; the event loop's is 0."""

Urgency = tuple[Priority, float]
"""Priority and deadline, as `Terms.of` gives them."""

T = TypeVar("T")


def _give_way() -> None:
    """Have the event loop go first where this thread shares a core with it: who is refused must not wait for what is scored."""
    if sys.platform == "linux":  # elsewhere a priority is a process's
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)


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
        self._follower = follower
        self._slots = slots
        self._spool, self._mirror = spool, mirror
        self._ids = ids
        self._configurations = configurations
        self._settings = settings
        self._pool = ThreadPoolExecutor(settings.score_threads, thread_name_prefix="score", initializer=_give_way)
        self._terms = Terms(settings)
        self._on_loop = self._backlog(1)
        self._in_threads = self._backlog(settings.score_threads)
        self._waiting = 0

    def close(self) -> None:
        """Let the scoring threads end."""
        self._pool.shutdown(wait=False, cancel_futures=True)

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
            read = await self._aside(self._read_at_once, call, model, None)
        else:
            read = self._read_at_once(call, model, unchecked)
        asked, lease = read or await self._read_carefully(call, model, unchecked)
        with lease:
            job = Job(asked.rows, call.body if asked.as_sent else None, call, lease, *urgency, began_s)
            return (await self._lane(lease.loaded).batcher.submit(job)).answer

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
            job = Job(asked.rows, call.body if asked.as_sent else None, call, lease, *urgency, began_s)
            self._lane(lease.loaded).batcher.put(job, Promised(waiting, lease))
        except BaseException:
            lease.release()
            raise
        return True

    async def infer(self, call: Call, model: str, version: int | None, read: Read) -> Answer:
        """Answer one request of another protocol; as `predict` in all else.

        Args:
            version: one that the caller names.
            read: reads the call's rows for the version that answers; in a thread when the body is large.
        """
        began_s = time.perf_counter()
        if version is not None:
            call.caller.require(Scope.PREDICT_VERSION)
        urgency, unchecked = self._begin(call, began_s)
        pipeline = self._choose(model, version, call.caller)
        (rows, write), lease = await self._lease_and_read(call, pipeline, version, read, unchecked)
        with lease:
            job = Job(rows, None, call, lease, *urgency, began_s, write)
            return (await self._lane(lease.loaded).batcher.submit(job)).answer

    async def rank(self, call: Call, model: str) -> Answer:
        """Answer one request for a list; as `predict` in all else."""
        began_s = time.perf_counter()
        (urgency, unchecked), most = self._begin(call, began_s), self._settings.max_instances
        read_list = read_list_request
        asked = await self._aside(read_list, call.body, most) if unchecked is None else read_list(call.body, most)
        if asked.version is not None:
            call.caller.require(Scope.PREDICT_VERSION)

        def read(loaded: Loaded) -> tuple[list[Row], Ranking]:
            rows = loaded.codec.read(asked.candidates, from_epoch_us(received_us(call)), name="candidates")
            return by_key(rows, asked)

        pipeline = self._choose(model, asked.version, call.caller)
        (rows, ranking), lease = await self._lease_and_read(call, pipeline, asked.version, read, unchecked)
        with lease:
            job = Job(rows, None, call, lease, *urgency, began_s, ranking=ranking)
            return (await self._lane(lease.loaded).batcher.submit(job)).answer

    async def _lease_and_read(
        self,
        call: Call,
        pipeline: Pipeline,
        version: int | None,
        read: Callable[[Loaded], tuple[list[Row], T]],
        unchecked: Urgency | None,
    ) -> tuple[tuple[list[Row], T], Lease]:
        """What is read for the version that answers, and its lease."""

        async def read_for(loaded: Loaded) -> tuple[list[Row], T]:
            return await self._aside(read, loaded) if unchecked is None else read(loaded)

        lease = await self._lease(pipeline, version)
        if unchecked is not None:
            self._let_in(lease, unchecked)
        try:
            found = await read_for(lease.loaded)
        except BaseException:
            lease.release()
            raise
        if lease.canary is None:
            return found, lease
        return await self._by_canary(call, lease, found[0], read_for) or (found, lease)

    def _begin(self, call: Call, began_s: float) -> tuple[Urgency, Urgency | None]:
        """A request's urgency; and once more when it may still be refused before it is read, None for a large one, let in now."""
        urgency = self._terms.of(call.headers, call.caller, began_s)
        if len(call.body) <= INLINE_BODY_BYTES:
            return urgency, urgency
        self._in_threads.check(*urgency)
        return urgency, None

    def has_room(self) -> bool:
        """Whether a prediction that came now would wait for nobody, and so work that may be left undone may be begun."""
        return self._on_loop.has_room() and self._in_threads.has_room()

    @property
    def wait_s(self) -> float:
        """How long a prediction of normal priority that came now is expected to wait, seconds."""
        return max(backlog.wait_s(Priority.NORMAL) for backlog in (self._on_loop, self._in_threads))

    def _backlog(self, servers: int) -> Backlog:
        chance = random.Random()  # noqa: S311 - it only spreads retries
        most_wait_s = self._settings.most_wait_ms / 1000
        return Backlog(servers=servers, most_wait_s=most_wait_s, clock=time.perf_counter, chance=chance)

    def _read_at_once(self, call: Call, model: str | None, unchecked: Urgency | None) -> tuple[Asked, Lease] | None:
        """For a good request to a live version; None for any other, which is then read carefully."""
        name = model or _named_in(call.body)
        pipeline = self._follower.catalogue.pipelines.get(name) if name else self._sole(call.caller)
        if pipeline is None or pipeline.pointer is None or not call.caller.allows_pipeline(pipeline.name):
            return None
        lease = self._slots.lease_live(pipeline.name)
        if lease is None:
            return None
        if unchecked is not None:
            self._let_in(lease, unchecked)
        asked = lease.loaded.codec.decode(
            call.body, received_us(call), max_instances=self._settings.max_instances, names_model=model is None
        )
        # The name was found by looking at bytes: what was decoded decides.
        if asked is None or asked.version is not None or (model is None and asked.model != name):
            lease.release()
            return None
        if lease.canary is None or (taken := self._take_canary(call, lease, asked.rows)) is None:
            return asked, lease
        if not taken.loaded.reads_as(lease.loaded):
            asked = taken.loaded.codec.decode(
                call.body, received_us(call), max_instances=self._settings.max_instances, names_model=model is None
            )
        lease.release()
        if asked is None:
            taken.release()
            return None
        return asked, taken

    def _sole(self, caller: Principal) -> Pipeline | None:
        """The pipeline of a caller who need not name it."""
        deployed = [pipeline for pipeline in self._follower.catalogue.visible(caller) if pipeline.pointer is not None]
        return deployed[0] if len(deployed) == 1 else None

    def _let_in(self, lease: Lease, urgency: Urgency) -> None:
        try:
            self._lane(lease.loaded).batcher.check(*urgency)
        except BaseException:
            lease.release()
            raise

    async def _read_carefully(self, call: Call, model: str | None, unchecked: Urgency | None) -> tuple[Asked, Lease]:
        large = unchecked is None
        document = await self._aside(strict_json, call.body) if large else strict_json(call.body)
        asked = read_envelope(document, max_instances=self._settings.max_instances, names_model=model is None)
        if asked.version is not None:
            call.caller.require(Scope.PREDICT_VERSION)
        pipeline = self._choose(model or asked.model, asked.version, call.caller)

        async def read(loaded: Loaded) -> list[Row]:
            instances, received_at = asked.instances, from_epoch_us(received_us(call))
            if large:
                return await self._aside(loaded.codec.read, instances, received_at)
            return loaded.codec.read(instances, received_at)

        lease = await self._lease(pipeline, asked.version)
        if unchecked is not None:
            self._let_in(lease, unchecked)
        try:
            rows = await read(lease.loaded)
        except BaseException:
            lease.release()
            raise
        if lease.canary is not None:
            rows, lease = await self._by_canary(call, lease, rows, read) or (rows, lease)
        return Asked(rows, asked.model, asked.version, as_sent=False), lease

    def _choose(self, name: str | None, version: int | None, caller: Principal) -> Pipeline:
        if not self._follower.known:
            raise Unavailable("This replica has not read the registry yet; try again shortly.")
        visible = self._follower.catalogue.visible(caller)
        if name is not None:
            found = next((pipeline for pipeline in visible if pipeline.name == name), None)
            if found is None:
                raise NotFound("There is no pipeline of that name.")
            if found.pointer is None and version is None:
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

    def _take_canary(self, call: Call, live: Lease, rows: Sequence[Row]) -> Lease | None:
        """A lease on the canary when the request is its to answer. One request is answered whole by one version."""
        given = call.headers.get(assignment.HEADER)
        key = given or live.loaded.codec.whom(rows[0]).encode("utf-8", "surrogatepass")
        if live.canary is None or not assignment.assigned(live.loaded.pipeline_id, key, live.canary.share):
            return None
        return self._slots.lease_canary(live)

    async def _by_canary(
        self, call: Call, live: Lease, rows: Sequence[Row], read: Callable[[Loaded], Awaitable[T]]
    ) -> tuple[T, Lease] | None:
        """What the canary reads of a request that is its to answer, and its lease in place of the live one's.

        None leaves everything as it is: the request is the live version's, or fits the fields of the live version alone.
        """
        taken = self._take_canary(call, live, rows)
        if taken is None:
            return None
        try:
            found = await read(taken.loaded)
        except (Invalid, Malformed):
            taken.release()
            metrics.CANARY_UNREAD.labels(live.loaded.pipeline_name).inc()
            return None
        except BaseException:
            taken.release()
            live.release()
            raise
        live.release()
        return found, taken

    def _lane(self, loaded: Loaded) -> Lane:
        lane = loaded.lane
        if lane is None:
            lane = loaded.lane = Lane(
                loaded, self._ids, self._spool, self._pool, current=self._configurations.of(loaded.pipeline_name),
                settings=self._settings, on_loop=self._on_loop, in_threads=self._in_threads,
                mirror=self._mirror,
            )  # fmt: skip
        return lane

    async def _aside(self, call: Callable[..., T], *arguments: Any) -> T:
        if self._waiting >= MOST_WAITING:
            raise Unavailable("This replica has more to do than it can; try again shortly.")
        work: Any = asyncio.get_running_loop().run_in_executor(self._pool, call, *arguments)
        self._waiting += 1
        work.add_done_callback(self._one_less)
        result: T = await work
        return result

    def _one_less(self, _: object) -> None:
        self._waiting -= 1


def received_us(call: Call) -> int:
    """When the request was received, epoch microseconds: the time in its id."""
    return (call.id >> 80) * 1000


def _named_in(body: bytes) -> str | None:
    """The model that the body seems to name; only a guess, since a row may hold a field of that name."""
    at = body.find(b'"model"')
    if at < 0:
        return None
    _, begin, rest = body[at + 7 : at + 7 + MOST_NAME].partition(b'"')
    return rest.partition(b'"')[0].decode("latin-1") if begin else None
