"""What serving exports to Prometheus beside what every service does."""

from prometheus_client import Counter, Gauge, Histogram

from services.serving.models.catalogue import Pipeline
from services.serving.models.policy import Applied
from services.serving.roles import Role
from shared.observability.tally import CountTally, HistogramTally, Tallies

TALLIES = Tallies()
"""What is counted for each prediction; before the metrics it stands for."""

PREDICTIONS = Counter(
    "relevo_serving_predictions",
    "Rows predicted and answered; logged before, but for those in relevo_serving_log_dropped.",
    ["model", "version", "role"],
)
SCORE_SUM = Gauge(
    "relevo_serving_score_sum",
    "Sum of all scores since the start; its rate over that of the predictions is the mean prediction.",
    ["model", "version", "role"],
    multiprocess_mode="sum",
)
REQUEST_SECONDS = Histogram(
    "relevo_serving_request_seconds",
    "Time from a prediction request's body to its answer, which is logged by then.",
    ["model", "role"],
    buckets=(0.0005, 0.001, 0.002, 0.003, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5),
)
REQUEST_ROWS = Histogram(
    "relevo_serving_request_rows",
    "Instances a prediction request carries.",
    buckets=(1, 2, 5, 10, 50, 100, 500, 1000, 5000, 10_000),
)
NOT_FINITE = Counter(
    "relevo_serving_scores_not_finite", "Rows refused because the model gave no finite score.", ["model", "version"]
)

BATCH_ROWS = Histogram(
    "relevo_serving_batch_rows",
    "Rows that were scored in one run of a model.",
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096, 16_384),
)

EXPECTED_WAIT_SECONDS = Gauge(
    "relevo_serving_expected_wait_seconds",
    "How long a prediction of normal priority that came now is expected to wait; what would wait longer than it may is refused.",
    multiprocess_mode="livemax",
)
LOG_APPEND_SECONDS = Histogram(
    "relevo_serving_log_append_seconds",
    "Time to append the records of one batch to the write-ahead log.",
    buckets=(0.000005, 0.00001, 0.00002, 0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.005, 0.02, 0.1, 1),
)
LOG_DROPPED = Counter(
    "relevo_serving_log_dropped", "Rows answered without a log record (only with SERVING_LOG_STRICT=false)."
)
LOG_REFUSED = Counter("relevo_serving_log_refused", "Records the registry will never take, set aside in refused.jsonl.")
LOG_DAMAGED = Counter(
    "relevo_serving_log_damaged", "Places in the log that hold no record; their segments are kept as .damaged files."
)
LOG_SYNC_FAILURES = Counter("relevo_serving_log_sync_failures", "Times the disk refused to sync the log.")
SPOOL_BYTES = Gauge(
    "relevo_serving_spool_bytes", "Bytes of logged predictions that wait to be shipped.", multiprocess_mode="livesum"
)
SPOOL_LIMIT_BYTES = Gauge(
    "relevo_serving_spool_limit_bytes",
    "Most bytes that may wait to be shipped; above it predictions are refused.",
    multiprocess_mode="livesum",
)
SHIP_LAG_SECONDS = Gauge(
    "relevo_serving_ship_lag_seconds",
    "Age of the oldest prediction that is not in the registry yet.",
    multiprocess_mode="livemax",
)
SHIPPED = Counter(
    "relevo_serving_shipped", "Rows that the registry took; some count twice when the shipper ends before it has told."
)
SHIP_FAILURES = Counter(
    "relevo_serving_ship_failures",
    "Batches that could not be shipped and are tried again, and times the shipper ended.",
)

LIVE_VERSION = Gauge(
    "relevo_serving_live_version", "Version that answers here.", ["model"], multiprocess_mode="liveall"
)
GENERATION = Gauge(
    "relevo_serving_generation", "Deployment generation applied here.", ["model"], multiprocess_mode="liveall"
)
CANARY_VERSION = Gauge(
    "relevo_serving_canary_version",
    "Version that answers a share of the keys here; 0 when none does.",
    ["model"],
    multiprocess_mode="liveall",
)
CANARY_WEIGHT = Gauge(
    "relevo_serving_canary_weight",
    "Share of the keys that the canary answers here; 0 when none does.",
    ["model"],
    multiprocess_mode="liveall",
)
CANARY_MISSING = Gauge(
    "relevo_serving_canary_missing",
    "1 while the deployment has a canary that does not answer here: the live version answers in its stead.",
    ["model"],
    multiprocess_mode="liveall",
)
CANARY_UNREAD = Counter(
    "relevo_serving_canary_unread",
    "Requests assigned to the canary that only the live version can read; it answered them.",
    ["model"],
)
SHADOW_VERSION = Gauge(
    "relevo_serving_shadow_version",
    "Version that scores a share of the requests for comparison; 0 when none does.",
    ["model"],
    multiprocess_mode="liveall",
)
SHADOW_REQUESTS = Counter(
    "relevo_serving_shadow_requests", "Requests sampled for the shadow, by what became of them.", ["model", "outcome"]
)
SHADOW_DELTA = Histogram(
    "relevo_serving_shadow_delta",
    "Largest |shadow - live| of a request's rows.",
    ["model"],
    buckets=(0.0001, 0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 10, 100, 1000),
)
TRAIN_LABEL_MEAN = Gauge(
    "relevo_serving_train_label_mean", "Label mean of the live version's training data.", ["model"]
)
TRAIN_END = Gauge(
    "relevo_serving_train_end_timestamp_seconds",
    "Event time at which the live version's training data ends.",
    ["model"],
)
SWAPS = Counter("relevo_serving_swaps", "Times another version began to answer.", ["model"])
LOAD_SECONDS = Histogram(
    "relevo_serving_model_load_seconds",
    "Fetching, checking, loading and warming a version.",
    buckets=(0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60),
)
LOAD_FAILURES = Counter("relevo_serving_model_load_failures", "Versions that could not be loaded.", ["model"])
REGISTRY_AGE_SECONDS = Gauge(
    "relevo_serving_registry_age_seconds", "Time since the registry was last read.", multiprocess_mode="livemax"
)

OFFLINE_LOOKUPS = Counter(
    "relevo_serving_offline_lookups",
    "Keys asked for by what answered: offline, online, default, or nothing.",
    ["model", "source"],
)
OFFLINE_GENERATION = Gauge(
    "relevo_serving_offline_generation",
    "Generation of offline predictions that answers here.",
    ["model"],
    multiprocess_mode="liveall",
)
OFFLINE_COMPUTED_AT = Gauge(
    "relevo_serving_offline_computed_at_timestamp_seconds",
    "When the rows of that generation were read.",
    ["model"],
    multiprocess_mode="livemin",
)
OFFLINE_FAILURES = Counter(
    "relevo_serving_offline_load_failures", "Generations that could not be fetched, verified and mapped.", ["model"]
)
PRECOMPUTE_ROWS = Counter("relevo_serving_precompute_rows", "Rows scored into generations.", ["model"])

FEEDBACK = Counter("relevo_serving_feedback", "Feedback items by what became of them.", ["status"])
FEEDBACK_DELAY_SECONDS = Histogram(
    "relevo_serving_feedback_delay_seconds",
    "From a prediction to when its truth was known, of new feedback by prediction id.",
    ["model"],
    buckets=(1, 10, 60, 600, 3600, 6 * 3600, 86_400, 3 * 86_400, 7 * 86_400, 30 * 86_400, 90 * 86_400),
)


class OfVersion:
    """What is counted of one version in one role."""

    def __init__(self, model: str, version: int, role: Role) -> None:
        labels = (model, str(version), role.value)
        self.predictions = TALLIES.get(("predictions", *labels), lambda: CountTally(PREDICTIONS.labels(*labels)))
        self.score_sum = TALLIES.get(("score_sum", *labels), lambda: CountTally(SCORE_SUM.labels(*labels)))
        self.request_seconds = TALLIES.get(
            ("seconds", model, role), lambda: HistogramTally(REQUEST_SECONDS.labels(model, role.value))
        )
        self.request_rows = TALLIES.get("request_rows", lambda: HistogramTally(REQUEST_ROWS))


def batch_rows() -> HistogramTally:
    """Before `BATCH_ROWS`."""
    return TALLIES.get("batch_rows", lambda: HistogramTally(BATCH_ROWS))


def log_append_seconds() -> HistogramTally:
    """Before `LOG_APPEND_SECONDS`."""
    return TALLIES.get("log_append_seconds", lambda: HistogramTally(LOG_APPEND_SECONDS))


def tell_applied(pipeline: Pipeline, applied: Applied) -> None:
    """What answers here now."""
    name, live, canary = pipeline.name, pipeline.version(applied.live), applied.canary
    GENERATION.labels(name).set(applied.generation)
    LIVE_VERSION.labels(name).set(applied.live)
    CANARY_VERSION.labels(name).set(canary.version if canary else 0)
    CANARY_WEIGHT.labels(name).set(canary.share if canary else 0)
    SHADOW_VERSION.labels(name).set(applied.shadow.version if applied.shadow else 0)
    TRAIN_LABEL_MEAN.labels(name).set(live.train_label_mean)
    TRAIN_END.labels(name).set(live.train_end.timestamp())


def tell_missing(pipeline: Pipeline, applied: Applied | None) -> None:
    """Whether the deployment has a canary that does not answer here."""
    wanted, held = pipeline.pointer and pipeline.pointer.canary, applied and applied.canary
    CANARY_MISSING.labels(pipeline.name).set(wanted is not None and wanted != held)


def feedback_delay_seconds(model: str) -> HistogramTally:
    """Before `FEEDBACK_DELAY_SECONDS`."""
    return TALLIES.get(("feedback_delay", model), lambda: HistogramTally(FEEDBACK_DELAY_SECONDS.labels(model)))


def offline_lookups(model: str, source: str) -> CountTally:
    """Before `OFFLINE_LOOKUPS`."""
    return TALLIES.get(("offline", model, source), lambda: CountTally(OFFLINE_LOOKUPS.labels(model, source)))


def forget_version(model: str, version: int) -> None:
    """Drop the series of a version that this replica has let go of: kept, they would grow with every release.

    They are counted under a lease, so nothing of the version is counted after this unless it is loaded again, from 0.
    """
    for name, metric in (("predictions", PREDICTIONS), ("score_sum", SCORE_SUM)):
        for role in Role:
            TALLIES.forget((name, model, str(version), role.value))
            metric.remove(model, str(version), role.value)
    NOT_FINITE.remove(model, str(version))
