"""Every Celery task by name and queue. A message carries one row id; the row is the truth, the message only a nudge."""

from enum import StrEnum


class Queue(StrEnum):
    """One queue for each kind of worker."""

    DATA = "data"  #: dataset builds
    TRAIN = "train"  #: training runs, one at a time for each worker
    VALIDATE = "validate"  #: validations, releases, monitoring, alert delivery
    PRECOMPUTE = "precompute"  #: generations of offline predictions
    CYCLES = "cycles"  #: short steps of the retraining state machine


class TaskName(StrEnum):
    """What a nudge asks for; the argument is the id of the row to look at."""

    BUILD_DATASET = "data.build_dataset"  #: datasets.id
    TRAIN = "trainer.train"  #: runs.id
    ADVANCE_CYCLE = "trainer.advance_cycle"  #: cycles.id
    VALIDATE = "validator.validate"  #: validations.id
    RELEASE = "validator.release"  #: validations.id
    MONITOR = "validator.monitor"  #: pipelines.id
    DELIVER_ALERT = "validator.deliver_alert"  #: alerts.id
    PRECOMPUTE = "serving.precompute"  #: precomputes.id


QUEUE_OF: dict[TaskName, Queue] = {
    TaskName.BUILD_DATASET: Queue.DATA,
    TaskName.TRAIN: Queue.TRAIN,
    TaskName.ADVANCE_CYCLE: Queue.CYCLES,
    TaskName.VALIDATE: Queue.VALIDATE,
    TaskName.RELEASE: Queue.VALIDATE,
    TaskName.MONITOR: Queue.VALIDATE,
    TaskName.DELIVER_ALERT: Queue.VALIDATE,
    TaskName.PRECOMPUTE: Queue.PRECOMPUTE,
}

DEPLOYMENT_CHANNEL = "relevo_deployments"
"""PostgreSQL NOTIFY channel that serving listens on; a lost notification only delays the next poll."""
OUTBOX_CHANNEL = "relevo_outbox"
"""PostgreSQL NOTIFY channel that wakes the outbox dispatcher."""
