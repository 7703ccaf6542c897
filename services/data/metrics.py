"""Prometheus metrics of the data service and its worker."""

from prometheus_client import Counter, Gauge

ROWS = Counter("relevo_data_rows", "Rows received, by kind (event, label) and verdict.", ["kind", "verdict"])
DATASET_ROWS = Gauge(
    "relevo_dataset_rows", "Rows of the newest dataset built, by pipeline and split.", ["pipeline", "split"]
)
