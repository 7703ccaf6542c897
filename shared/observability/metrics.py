"""Prometheus metrics that mean the same in every process; a service's own are in its `metrics.py`."""

import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version

from prometheus_client import Counter, Gauge, Histogram

JOBS = Counter("relevo_jobs", "Units of work that ended, by kind and outcome.", ["kind", "outcome"])
JOB_SECONDS = Histogram(
    "relevo_job_seconds",
    "How long a unit of work took from claim to finish.",
    ["kind"],
    buckets=(0.1, 0.3, 1, 3, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 14400),
)
LEASES_EXPIRED = Counter("relevo_leases_expired", "Leases that ran out because their worker fell silent.", ["kind"])
OUTBOX_PENDING = Gauge("relevo_outbox_pending", "Nudges written but not yet published.")
OUTBOX_PUBLISHED = Counter("relevo_outbox_published", "Nudges handed to the queue.")

_BUILD_INFO = Gauge("relevo_build_info", "What runs here; the value is always 1.", ["service", "version", "python"])


def set_build_info(service: str) -> None:
    """Export `relevo_build_info` for this process."""
    _BUILD_INFO.labels(service=service, version=relevo_version(), python=platform.python_version()).set(1)


@cache
def relevo_version() -> str:
    """The installed version of Relevo."""
    try:
        return version("relevo")
    except PackageNotFoundError:
        return "unknown"
