"""One loaded version at work: batches of rows to answers and log records, which are on disk before the answers leave."""

import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field

import msgspec
import structlog

from services.serving import metrics
from services.serving.admission import Backlog, Priority
from services.serving.batching import Batcher
from services.serving.config import ServingSettings
from services.serving.errors import LogFull, LogUnwritable
from services.serving.instances import MAX_ERRORS
from services.serving.models.loader import Loaded
from services.serving.models.model import Feeds
from services.serving.models.recent import EVERY_S
from services.serving.models.slots import Lease
from services.serving.postprocessing.answers import Processed, Ranking, Scores, process
from services.serving.postprocessing.current import Current
from services.serving.prediction_log import record
from services.serving.prediction_log.spool import Spool
from services.serving.roles import Role
from services.serving.rows import AVAILABLE_OF, KEY_OF, TIME_OF, Row, to_json
from services.serving.run_cost import RowBytes
from services.serving.shadow.mirror import Mirror
from services.serving.terms import Urgency
from services.serving.threads import Threads
from shared.errors import FieldError, Invalid, TooLarge
from shared.prediction_ids import PredictionIds
from shared.web.raw import Answer, Call

log = structlog.stdlib.get_logger(__name__)

MOST_HEADS = 1024

Write = Callable[[Sequence[str], Sequence[float]], Answer]
"""Makes the answer of the prediction ids and scores, one a row."""


@dataclass(slots=True)
class Job:
    """One request whose rows are read."""

    rows: list[Row]
    sent: bytes | None
    """The body, when it may be logged as it is."""
    call: Call
    lease: Lease
    priority: Priority
    deadline_s: float
    """When the answer is of no use any more, by `time.perf_counter`, as `began_s`."""
    began_s: float
    write: Write | None = None
    """Makes the answer when it is not that of `/predict`."""
    ranking: Ranking | None = None
    """Asks for a list instead of single scores."""
    replays: bool = False
    """Whether the call's body is one of `/predict`: a version that is loaded later may rehearse with it."""
    size: int = field(init=False)
    """Rows."""

    def __post_init__(self) -> None:
        self.size = len(self.rows)


@dataclass(slots=True)
class Scored:
    """A request's answer and its log record."""

    answer: Answer
    record: tuple[bytes, ...]
    """In pieces."""
    score_sum: float


class _Prediction(msgspec.Struct, gc=False):
    prediction_id: str
    key: str
    score: float


class _Record(msgspec.Struct, gc=False, omit_defaults=True):
    """What differs from record to record; see `record.Logged` for the rest."""

    request: str
    caller_request: str
    latency_us: int
    keys: list[str]
    times: list[int]
    received: int
    scores: list[float]
    available: list[int] | None = None
    rows: list[Row] | None = None
    final_scores: list[float | None] | None = None
    stages_number: int | None = None
    stages_spec: int | None = None
    removals: int | None = None


class Lane:
    """Scores, answers and logs the requests to one loaded version."""

    def __init__(
        self,
        loaded: Loaded,
        ids: PredictionIds,
        spool: Spool,
        pool: Executor,
        *,
        current: Current,
        settings: ServingSettings,
        on_loop: Backlog,
        in_threads: Backlog,
        mirror: Mirror,
        threads: Threads,
    ) -> None:
        self._loaded = loaded
        self._mirror = mirror
        self._name = loaded.pipeline_name
        self._ids = ids
        self._spool = spool
        self._current = current
        self._strict = settings.log_strict
        self._answer_head = b'{"model":%b,"model_version":%d,' % (
            to_json(self._name),
            loaded.version.number,
        )
        self._record_heads: dict[tuple[int, Role, str], bytes] = {}
        self._counted: dict[Role, metrics.OfVersion] = {}
        self._sample = loaded.sample
        self._batch_rows = metrics.batch_rows()
        self._append_seconds = metrics.log_append_seconds()
        self._row_bytes = RowBytes()
        self.batcher: Batcher[Job, Scored] = Batcher(
            self._score,
            self._deliver,
            loaded.model.cost,
            pool,
            on_loop=on_loop,
            in_threads=in_threads,
            inline_s=settings.inline_run_ms / 1000,
            batch_s=settings.batch_ms / 1000,
            most_rows=settings.most_waiting_rows,
            threads=threads,
        )

    def check(self, urgency: Urgency, body_bytes: int) -> None:
        """Whether a request would be taken now, before it is read.

        Raises:
            Overloaded, DeadlinePassed: too much waits.
        """
        self.batcher.check(*urgency, rows=self._row_bytes.rows_in(body_bytes))

    def retire(self) -> None:
        """Let go of the version, which holds this lane in turn: so the model goes with its last reference, and not when garbage is
        looked for. No request can come any more; one whose caller has left while it ran fails, unheard.
        """
        del self._loaded

    # In a thread or on the loop

    def _score(self, jobs: Sequence[Job]) -> Sequence[Scored | Exception]:
        try:
            feeds = self._loaded.codec.feeds([job.rows for job in jobs])
            scores = self._loaded.model.score(feeds)
        except Exception:
            if len(jobs) == 1:
                raise
            return [self._alone(job) for job in jobs]  # one request's rows must not fail the others
        values: list[float] = scores.tolist()
        outcomes: list[Scored | Exception] = []
        start = 0
        for job in jobs:
            part = values[start : start + job.size]
            total = sum(part)
            # A sum of float32 values is finite exactly when all of them are.
            if math.isfinite(total):
                try:
                    outcomes.append(self._scored(job, part, total, feeds, start))
                except Exception as error:  # noqa: BLE001 - this job's own outcome
                    outcomes.append(error)
            else:
                outcomes.append(self._not_finite(job, part))
            start += job.size
        return outcomes

    def _alone(self, job: Job) -> Scored | Exception:
        try:
            return self._score([job])[0]
        except Exception as error:  # noqa: BLE001 - this job's own outcome
            return error

    def _scored(self, job: Job, scores: list[float], total: float, feeds: Feeds, start: int) -> Scored | TooLarge:
        rows, call, sent = job.rows, job.call, job.sent
        request = call.id.to_bytes(16).hex()
        keys = list(map(KEY_OF, rows))
        available = list(map(AVAILABLE_OF, rows))
        received_us = call.received_us
        ids = self._ids.make_batch(self._name, request, len(rows))
        logged = _Record(
            request,
            call.request_id,
            int((time.perf_counter() - job.began_s) * 1e6),
            keys,
            list(map(TIME_OF, rows)),
            received_us,
            scores,
            None if available.count(None) == len(rows) else [received_us if at is None else at for at in available],
            rows if sent is None else None,
        )
        processed: Processed | None = None
        configuration = self._current.single if job.ranking is None else self._current.all
        if configuration is not None:
            processed = process(
                configuration, Scores(self._loaded.codec, rows, keys, ids, scores, feeds, start), job.ranking
            )
            under = processed.under
            logged.final_scores = processed.final
            logged.stages_number, logged.stages_spec, logged.removals = under.number, under.spec_version, under.removals
        head, own = self._record_head(job), to_json(logged)
        if sent is None:
            document: tuple[bytes, ...] = (head, b",", own[1:])
        else:
            document = (head, b",", own[1:-1], b',"sent":', sent, b"}")
        if (size := sum(map(len, document))) > record.MAX_DOCUMENT_BYTES:
            return _too_large(len(rows), size)
        if job.write is not None:
            answer = job.write(ids, scores if processed is None else processed.floats())
        elif processed is not None:
            answer = self._answer_head + processed.body
        else:
            answer = b'%b"predictions":%b}' % (self._answer_head, to_json(list(map(_Prediction, ids, keys, scores))))
        return Scored(answer, (record.head(call.id >> 80, len(rows)), *document), total)

    def _record_head(self, job: Job) -> bytes:
        """What the records of one caller's requests begin with, without the closing brace."""
        wanted = (job.lease.generation, job.lease.role, job.call.caller.key_id)
        head = self._record_heads.get(wanted)
        if head is None:
            if len(self._record_heads) >= MOST_HEADS:
                self._record_heads.clear()
            version = self._loaded.version
            head = self._record_heads[wanted] = to_json(
                {
                    "pipeline": self._loaded.pipeline_id.hex,
                    "version": version.id.hex,
                    "number": version.number,
                    "generation": job.lease.generation,
                    "pinned": job.lease.role is Role.PINNED,
                    "role": job.lease.role,
                    "api_key": job.call.caller.key_id,
                    "not_logged": self._loaded.codec.not_logged,
                }
            )[:-1]
        return head

    def _not_finite(self, job: Job, scores: list[float]) -> Invalid:
        bad = [index for index, score in enumerate(scores) if not math.isfinite(score)]
        number = self._loaded.version.number
        metrics.NOT_FINITE.labels(self._name, str(number)).inc(len(bad))
        log.error("the model gives scores that are not finite", model=self._name, version=number, rows=len(bad))
        errors: list[FieldError] = [
            {"loc": ["body", *_place(job, index)], "msg": f"version {number} gives no finite score for this row"}
            for index in bad[:MAX_ERRORS]
        ]
        return Invalid(
            f"Nothing was predicted: version {number} gives no finite score for {len(bad)} row(s).", errors=errors
        )

    # On the loop

    def _deliver(self, jobs: Sequence[Job], outcomes: Sequence[Scored | Exception]) -> Sequence[Scored | Exception]:
        began_s = time.perf_counter()
        if records := [outcome.record for outcome in outcomes if isinstance(outcome, Scored)]:
            try:
                self._spool.append(*records)
            except (LogFull, LogUnwritable) as error:
                if self._strict:
                    return [error if isinstance(outcome, Scored) else outcome for outcome in outcomes]
                metrics.LOG_DROPPED.inc(
                    sum(job.size for job, outcome in zip(jobs, outcomes, strict=True) if isinstance(outcome, Scored))
                )
        now_s = time.perf_counter()
        if now_s >= self._sample.due_s:
            self._sample_one(jobs, outcomes, now_s)
        rows, row_bytes = 0, 0.0
        for job, outcome in zip(jobs, outcomes, strict=True):
            size, lease = job.size, job.lease
            rows += size
            if (of_one := len(job.call.body) / size) > row_bytes:
                row_bytes = of_one
            if isinstance(outcome, Scored):
                counted = self._counted.get(lease.role) or self._count(lease.role)
                counted.predictions.value += size
                counted.score_sum.value += outcome.score_sum
                counted.request_rows.observe(size)
                counted.request_seconds.observe(now_s - job.began_s)
                if lease.shadow is not None:
                    waiting = self.batcher.waiting_rows
                    self._mirror.offer(lease.shadow, self._name, job.call.id, outcome.record, waiting_rows=waiting)
        self._row_bytes.learn(row_bytes, now_s)
        self._append_seconds.observe(now_s - began_s)
        self._batch_rows.observe(rows)
        return outcomes

    def _sample_one(self, jobs: Sequence[Job], outcomes: Sequence[Scored | Exception], now_s: float) -> None:
        """Keep the body of a request that was answered by the live version, if there is one here."""
        self._sample.due_s = now_s + EVERY_S
        for job, outcome in zip(jobs, outcomes, strict=True):
            if isinstance(outcome, Scored) and job.replays and job.lease.role is Role.LIVE:
                self._sample.keep(job.call.body)
                return

    def _count(self, role: Role) -> metrics.OfVersion:
        self._counted[role] = metrics.OfVersion(self._name, self._loaded.version.number, role)
        return self._counted[role]


def _too_large(rows: int, size: int) -> TooLarge:
    most = record.MAX_DOCUMENT_BYTES
    cure = f"Send fewer instances a request: {rows * most // size} or less." if rows > 1 else "Shorten its values."
    return TooLarge(
        f"Nothing was predicted: the log record of the {rows} instance(s) has {size} bytes, and the registry takes {most}. {cure}"
    )


def _place(job: Job, index: int) -> tuple[str, int]:
    """Where in the request a row stood."""
    return ("instances", index) if job.ranking is None else ("candidates", job.ranking.places[index])
