"""Prometheus metrics of the trainer; those of all leased work are in `shared.observability.metrics`."""

from prometheus_client import Counter, Gauge

CYCLES = Counter("relevo_cycles", "Retraining cycles that ended, by outcome.", ["outcome"])
OPEN_CYCLES = Gauge("relevo_cycles_open", "Retraining cycles at work.")
SLOTS = Counter("relevo_schedule_slots", "Cron slots that started a cycle.")
