"""What the process before the workers exports; in one process alone, nothing of it."""

from prometheus_client import Counter, Gauge

WORKERS = Gauge("relevo_serving_workers", "Processes that answer, as configured.")
WORKERS_READY = Gauge("relevo_serving_workers_ready", "Processes that are ready.")
WORKER_CONNECTIONS = Gauge("relevo_serving_worker_connections", "Open connections of each process.", ["worker"])
WORKER_RESTARTS = Counter("relevo_serving_worker_restarts", "Processes that ended unasked and were started again.")
