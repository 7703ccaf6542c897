"""One definition of every quality metric: the trainer, the gate, monitoring and the benchmarks all count the same way."""

from shared.evaluation.metrics import (
    LOSS_NAMES,
    PROBABILITY_CLIP,
    Quality,
    ReliabilityBin,
    auc,
    evaluate,
    expected_calibration_error,
    log_loss,
    log_loss_rows,
    loss_rows,
    prediction_bias,
    reliability,
    rmse,
    squared_error_rows,
)

__all__ = [
    "LOSS_NAMES",
    "PROBABILITY_CLIP",
    "Quality",
    "ReliabilityBin",
    "auc",
    "evaluate",
    "expected_calibration_error",
    "log_loss",
    "log_loss_rows",
    "loss_rows",
    "prediction_bias",
    "reliability",
    "rmse",
    "squared_error_rows",
]
