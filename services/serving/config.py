"""Serving's own settings (SERVING_*), beside those every process reads (`shared.config`)."""

from pathlib import Path
from typing import Any

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from shared.cpus import usable_cpus

MOST_WORKERS = 64
MOST_TIMEOUT_MS = 3_600_000


def _score_threads(settings: dict[str, Any]) -> int:
    return score_threads(usable_cpus(), settings.get("workers", 1))


def score_threads(cpus: int, workers: int) -> int:
    """A process's share of the cores, at least 1 and at most 4."""
    return max(1, min(4, cpus // workers))


class ServingSettings(BaseSettings):
    """How predictions are made, logged and kept up with the registry."""

    model_config = SettingsConfigDict(env_prefix="SERVING_", extra="ignore")

    workers: int = Field(default=1, ge=1, le=MOST_WORKERS)
    """Processes that `python -m services.serving` answers with; each holds the models and a part of the connections."""
    worker_silent_s: float = Field(default=60, ge=3)
    """How long one of several processes may be silent, its event loop held up, before it is killed and started again."""
    spool_dir: Path = Path(".relevo/spool")
    """The write-ahead prediction log and the state for a start without PostgreSQL. Local disk; must survive a restart."""
    spool_limit_bytes: int = Field(default=2**30, gt=0)
    """Most bytes of predictions that may wait for PostgreSQL; above it, predictions are refused (see `log_strict`)."""
    segment_bytes: int = Field(default=16 * 2**20, ge=4096)
    """Size at which a log segment is closed and the next begun."""
    segment_age_s: float = Field(default=60, gt=0)
    """Age at which a log segment is closed."""
    sync_s: float = Field(default=1, gt=0)
    """Time between two syncs of the log to disk: what a power cut may lose. A killed process loses nothing."""
    log_strict: bool = True
    """Answer 503 when a prediction cannot be logged. With false it is answered, and counted as dropped."""
    ship_s: float = Field(default=0.5, gt=0)
    """Time between two batches of predictions sent to PostgreSQL under light load."""
    poll_s: float = Field(default=1, gt=0)
    """Time between two readings of the deployment pointers; notifications are usually faster."""
    registry_wait_s: float = Field(default=20, gt=0)
    """How long feedback and administration wait for PostgreSQL before they answer 503."""
    registry_max_age_s: float = Field(default=3600, gt=0)
    """How old the last reading of the registry may get before /readyz turns red. Predictions go on while keys are valid."""
    max_instances: int = Field(default=10_000, ge=1, le=2**20)
    """Most instances in one prediction request, and most items in one feedback request."""
    pinned_versions: int = Field(default=2, ge=1)
    """Versions of a pipeline kept loaded because requests name them."""
    replay_requests: int = Field(default=32, ge=0, le=1024)
    """Recent requests of a pipeline kept in memory; a new version must score them before it answers. 0 keeps none."""
    load_wait_s: float = Field(default=30, gt=0)
    """How long a request waits for a version it names, or a promotion for its version, to be loaded."""
    apply_wait_s: float = Field(default=10, gt=0)
    """How long a promotion waits until this replica answers with the new version."""
    intra_op_threads: int = Field(default=1, ge=1)
    """Threads of one ONNX Runtime run; 1 keeps it on the calling thread."""
    score_threads: int = Field(default_factory=_score_threads, ge=1)
    """Threads of one process that score what is too large for the event loop."""
    inline_run_ms: float = Field(default=1, ge=0)
    """Batches expected to take at most this long run on the event loop, longer ones in a thread. Learned while serving."""
    batch_ms: float = Field(default=20, gt=0)
    """Expected time up to which waiting requests are put together into one batch that runs in a thread."""
    most_waiting_rows: int = Field(default=100_000, ge=1)
    """Rows of one version that may wait to be scored; what comes on top is answered 503."""
    most_wait_ms: float = Field(default=500, gt=0)
    """A prediction that is expected to wait longer than this for its turn is answered 503 at once, low priorities first."""
    timeout_ms: int = Field(default=10_000, ge=1, le=MOST_TIMEOUT_MS)
    """How long after its receipt a prediction may still be scored, when `X-Relevo-Timeout-Ms` does not say."""
    key_rate: float = Field(default=0, ge=0)
    """Prediction requests a second that an API key may send to one process; what comes on top is answered 429. 0: any number."""
    key_burst: int = Field(default=20, ge=1)
    """Prediction requests that one API key may send at once within `key_rate`."""
    most_connections: int = Field(default=4096, ge=1)
    """Connections to one process; those on top are answered 503, but for health, metrics and administration."""
    head_timeout_s: float = Field(default=10, gt=0)
    """How long a client may take to send the head of a request; it is disconnected. For the body see `RELEVO_BODY_TIMEOUT_S`."""
    answer_timeout_s: float = Field(default=30, gt=0)
    """How long a client may take to receive an answer; it is disconnected."""
    shadow_waiting: int = Field(default=256, ge=1)
    """Answered requests that may wait for the shadow's process; what comes on top is shed, and counted."""
    shadow_busy_rows: int = Field(default=64, ge=0)
    """While more rows than this wait for the live version, nothing is given to the shadow."""
    shadow_keep_d: int = Field(default=30, ge=1)
    """Days that comparisons with a shadow are kept."""
    precompute_threads: int = Field(default_factory=lambda: max(1, min(8, usable_cpus() // 2)), ge=1)
    """Threads that score a generation of offline predictions, in serving's worker."""
    precompute_query_s: int = Field(default=1800, ge=1)
    """How long reading all keys seen may take."""
    precompute_upload_rows: int = Field(default=10_000_000, ge=1)
    """Most rows of an uploaded Parquet file that is to be scored."""
    precompute_upload_bytes: int = Field(default=4 * 2**30, ge=1)
    """Most bytes that such a file may unpack to: a small file can hold anything."""
    precompute_keep: int = Field(default=3, ge=1)
    """Generations of a pipeline whose files are kept; the newest one answers."""
    drain_s: float = Field(default=0, ge=0)
    """After SIGTERM: how long to go on answering with /readyz red, so that a load balancer notices, before closing."""
    flush_s: float = Field(default=10, gt=0)
    """At the end: how long to try to ship what is left in the log. The rest is shipped by the next process."""
