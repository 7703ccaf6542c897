"""What the validator exports to Prometheus beside what every service does. Gauges are by pipeline."""

import contextlib
from collections.abc import Iterable
from datetime import UTC, datetime, time

from prometheus_client import Gauge

from services.validator.monitoring_repository import Live

_LABELS = ["pipeline"]

LIVE_VERSION = Gauge("relevo_validator_live_version", "Number of the version in production.", _LABELS)
GENERATION = Gauge("relevo_validator_generation", "Deployment generation.", _LABELS)
LIVE_AS_OF = Gauge(
    "relevo_validator_live_as_of_timestamp_seconds",
    "How fresh the live model's knowledge is: time() minus this is its staleness.",
    _LABELS,
)
DAY = Gauge("relevo_validator_day_timestamp_seconds", "The newest day of event time with predictions.", _LABELS)
PREDICTIONS = Gauge("relevo_validator_day_predictions", "Predictions of the newest day.", _LABELS)
LABELLED = Gauge("relevo_validator_day_labelled", "Of those, how many have a label by now.", _LABELS)
MEAN_PREDICTION = Gauge("relevo_validator_mean_prediction", "Mean prediction of the newest day.", _LABELS)
MEAN_LABEL = Gauge("relevo_validator_mean_label", "Mean label of the newest day.", _LABELS)
PREDICTION_BIAS = Gauge(
    "relevo_validator_prediction_bias", "Mean prediction of the newest day minus the training label mean.", _LABELS
)
LABEL_BIAS = Gauge("relevo_validator_label_bias", "Mean prediction minus mean label of the newest day.", _LABELS)
LOSS = Gauge("relevo_validator_loss", "Log loss (binary) or RMSE (regression) of the newest day.", _LABELS)
AUC = Gauge("relevo_validator_auc", "AUC of the newest day.", _LABELS)
MODEL_AGE = Gauge(
    "relevo_validator_model_age_seconds",
    "Age of the knowledge that answered, at event time, newest day, mean.",
    _LABELS,
)

_OF_THE_DAY = {
    PREDICTIONS: "predictions",
    LABELLED: "labelled",
    MEAN_PREDICTION: "mean_prediction",
    MEAN_LABEL: "mean_label",
    PREDICTION_BIAS: "bias",
    LABEL_BIAS: "label_bias",
    LOSS: "loss",
    AUC: "auc",
    MODEL_AGE: "model_age_s",
}


def show(live: Iterable[Live]) -> None:
    """Set every gauge to what the registry says; a value that is not known is not exported."""
    for one in live:
        LIVE_VERSION.labels(one.pipeline).set(one.version)
        GENERATION.labels(one.pipeline).set(one.generation)
        LIVE_AS_OF.labels(one.pipeline).set(one.as_of.timestamp())
        if one.latest is None:
            continue
        DAY.labels(one.pipeline).set(datetime.combine(one.latest.day, time(), UTC).timestamp())
        for gauge, column in _OF_THE_DAY.items():
            value = getattr(one.latest, column)
            if value is None:
                with contextlib.suppress(KeyError):
                    gauge.remove(one.pipeline)
            else:
                gauge.labels(one.pipeline).set(value)
