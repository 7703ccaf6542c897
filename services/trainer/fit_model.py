"""Training one model, start to end: a train table and a pipeline in, a checked ONNX file and its figures out."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from services.trainer.export import OUTPUT, check_export, export_model
from services.trainer.golden import make_golden
from services.trainer.loop import Epoch, Examples, train_epochs
from services.trainer.networks import Scorer, make_network
from services.trainer.transform import (
    Transform,
    feeds_of,
    fit_transform,
    inputs_of,
    read_keys,
    read_labels,
)
from shared.errors import Invalid
from shared.feeds import Feeds, times_us
from shared.golden import Golden
from shared.spec import PipelineSpec

PARITY_ROWS = 5_000
MIN_HELD_OUT = 20
"""Fewer held-out rows than this say nothing about when to stop: then none are held out."""
MIN_BASE_RATE = 1e-3
"""Labels of one class alone do not start the network at an infinite logit."""


@dataclass(frozen=True)
class FittedModel:
    """A model that passed every check, and what is known about its making."""

    onnx_bytes: bytes
    signature: dict[str, Any]
    """`{"inputs": [{"name", "kind", "required", "length"?}], "output": "score", "task"}`."""
    golden: Golden
    """What serving must score alike before the model may answer."""
    metrics: dict[str, float]
    epochs: list[Epoch]
    parity_max_diff: float
    """Largest difference between ONNX Runtime and torch on real rows: of scores, for regression per label deviation."""
    device: str


def fit_model(
    train: pa.Table,
    spec: PipelineSpec,
    *,
    metadata: dict[str, str],
    on_epoch: Callable[[Epoch], None],
    should_stop: Callable[[], bool],
) -> FittedModel:
    """Fit the transform and the network, export them as one graph, and check it.

    First the newest `training.validation_share` of the rows by time is held out, and transform and network learn from
    the rest alone; the held-out loss says how many epochs are enough. With `training.refit` both then start anew on
    all rows, the newest too, for so many epochs. On the CPU, the same table and spec give the same model.

    Args:
        train: columns `key` string, `time` timestamp, each input feature raw, `label` double; in any order. No row of
            the test split.
        spec: the pipeline.
        metadata: written into the file.
        on_epoch: called after each epoch.
        should_stop: asked before each batch.

    Raises:
        Invalid: the table cannot be trained on; the message says which column and why.
        TrainingStopped: `should_stop` said so.
        TrainingDiverged: the loss became NaN or infinite.
        ExportFailed: the file does not give what torch gives.
    """
    started = time.monotonic()
    rows = _read(train, spec)
    held_out = int(len(rows.labels) * spec.training.validation_share)
    held_out = held_out if held_out >= MIN_HELD_OUT else 0
    older, newest = rows[: len(rows.labels) - held_out], rows[len(rows.labels) - held_out :]
    epochs: list[Epoch] = []

    def report(epoch: Epoch) -> None:
        epochs.append(epoch)
        on_epoch(epoch)

    fitted = _fit(older, newest, spec, report=report, should_stop=should_stop)
    best = max((epoch for epoch in epochs if epoch.is_best), key=lambda epoch: epoch.epoch)
    if held_out and spec.training.refit:
        settings = spec.training.model_copy(update={"epochs": best.epoch})
        searched = len(epochs)
        fitted = _fit(
            rows,
            rows[:0],
            spec.model_copy(update={"training": settings}),
            report=lambda epoch: report(replace(epoch, epoch=searched + epoch.epoch)),
            should_stop=should_stop,
        )
    scorer, transform = fitted
    data = export_model(scorer, transform, spec, metadata)
    sample = rows[np.unique(np.linspace(0, len(rows.labels) - 1, PARITY_ROWS).astype(int))]
    difference = check_export(data, sample.feeds, scorer, transform)
    golden = make_golden(data, scorer, transform, spec)
    metrics = {
        "rows": float(len(rows.labels)),
        "rows_held_out": float(held_out),
        "label_mean": float(rows.labels.mean()),
        "best_epoch": float(best.epoch),
        "train_loss": epochs[-1].train_loss if held_out and spec.training.refit else best.train_loss,
        "seconds": round(time.monotonic() - started, 3),
    }
    if best.valid_loss is not None:
        metrics["valid_loss"] = best.valid_loss
    return FittedModel(data, signature_of(spec), golden, metrics, epochs, difference, _device().type)


def signature_of(spec: PipelineSpec) -> dict[str, Any]:
    """What the model takes and gives, for those who call it."""
    return {"inputs": inputs_of(spec), "output": OUTPUT, "task": spec.task}


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@dataclass(frozen=True)
class _Rows:
    """Input tensors and labels (float64 [n]) of the same rows, in order of time."""

    feeds: Feeds
    labels: np.ndarray

    def __getitem__(self, rows: slice | np.ndarray) -> "_Rows":
        return _Rows({name: values[rows] for name, values in self.feeds.items()}, self.labels[rows])


def _read(train: pa.Table, spec: PipelineSpec) -> _Rows:
    if not train.num_rows:
        raise Invalid("The training table has no rows; widen dataset.window or send more labels.")
    order = np.lexsort((read_keys(train), times_us(train)))
    table = train.take(pa.array(order))
    return _Rows(feeds_of(table, spec), read_labels(table, spec))


def _fit(
    rows: _Rows,
    held_out: _Rows,
    spec: PipelineSpec,
    *,
    report: Callable[[Epoch], None],
    should_stop: Callable[[], bool],
) -> tuple[Scorer, Transform]:
    """Transform and network from `rows`, with the weights that are best on `held_out`, which may be empty."""
    transform = fit_transform(rows.feeds, spec)
    mean, std = float(rows.labels.mean()), 1.0
    if spec.task == "regression":
        std = float(rows.labels.std()) or 1.0

    def examples(part: _Rows) -> Examples:
        numbers, ids = (torch.from_numpy(values) for values in transform(part.feeds))
        labels = part.labels if spec.task == "binary" else (part.labels - mean) / std
        return Examples(numbers, ids, torch.from_numpy(labels.astype(np.float32))).to(_device())

    device = _device()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(spec.training.seed)
        network = make_network(spec.network, len(transform.number_names), transform.id_sizes)
        if spec.task == "binary":
            rate = min(max(mean, MIN_BASE_RATE), 1 - MIN_BASE_RATE)
            network.set_base_rate(math.log(rate / (1 - rate)))
        network.to(device)
        for epoch in train_epochs(
            network, examples(rows), examples(held_out), spec=spec.training, task=spec.task, should_stop=should_stop
        ):
            report(epoch)
    return Scorer(network, spec.task, mean, std).cpu().eval(), transform
