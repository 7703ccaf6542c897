"""Training one model, start to end: a train table and a pipeline in, a checked ONNX file and its figures out."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from services.trainer.export import MAX_DIFFERENCE, OUTPUT, check_export, export_model
from services.trainer.loop import Epoch, Examples, mean_loss, train_epochs
from services.trainer.networks import Scorer, make_network
from services.trainer.transform import Transform, feeds_of, fit_transform, input_kind, read_labels, read_times
from services.trainer.transform.feeds import Feeds
from shared.errors import Invalid
from shared.spec import PipelineSpec, VectorFeature

PARITY_ROWS = 5_000
MIN_HELD_OUT = 20
"""Fewer held-out rows than this say nothing about when to stop: then none are held out."""


@dataclass(frozen=True)
class FittedModel:
    """A model that passed every check, and what is known about its making."""

    onnx_bytes: bytes
    signature: dict[str, Any]
    """`{"inputs": [{"name", "kind", "required", "length"?}], "output": "score", "task"}`."""
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

    The newest `training.validation_share` of the rows by time is held out for early stopping; transform and network
    learn from the rest alone. On the CPU, the same table and spec give the same model.

    Args:
        train: columns `key` string, `time` timestamp, each input feature raw, `label` double; in any order.
        spec: the pipeline.
        metadata: written into the file.
        on_epoch: called after each epoch.
        should_stop: asked before each batch.

    Raises:
        Invalid: the table cannot be trained on; the message says which column and why.
        TrainingStopped: `should_stop` said so.
        ExportFailed: the file does not give what torch gives.
    """
    if not train.num_rows:
        raise Invalid("The training table has no rows; widen dataset.window or send more labels.")
    started = time.monotonic()
    order = np.lexsort((train.column("key").to_numpy(), read_times(train)))
    table = train.take(pa.array(order))
    labels = read_labels(table, spec)
    feeds = feeds_of(table, spec)
    held_out_count = int(len(labels) * spec.training.validation_share)
    fit_count = len(labels) - (held_out_count if held_out_count >= MIN_HELD_OUT else 0)

    transform = fit_transform({name: values[:fit_count] for name, values in feeds.items()}, spec)
    scorer, epochs, metrics = _fit_network(
        transform, feeds, labels, fit_count, spec=spec, on_epoch=on_epoch, should_stop=should_stop
    )
    data = export_model(scorer, transform, spec, metadata)
    scale = scorer.label_std
    rows = np.unique(np.linspace(0, len(labels) - 1, PARITY_ROWS).astype(int))
    sample: Feeds = {name: values[rows] for name, values in feeds.items()}
    difference = check_export(data, sample, scorer, transform, MAX_DIFFERENCE * scale) / scale
    return FittedModel(
        onnx_bytes=data,
        signature=signature_of(spec),
        metrics={**metrics, "seconds": round(time.monotonic() - started, 3)},
        epochs=epochs,
        parity_max_diff=difference,
        device=_device().type,
    )


def signature_of(spec: PipelineSpec) -> dict[str, Any]:
    """What the model takes and gives, for those who call it."""
    inputs: list[dict[str, Any]] = []
    for name, feature in spec.input_features.items():
        entry = {"name": name, "kind": input_kind(feature), "required": getattr(feature, "required", True)}
        if isinstance(feature, VectorFeature):
            entry["length"] = feature.length
        inputs.append(entry)
    return {"inputs": inputs, "output": OUTPUT, "task": spec.task}


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _fit_network(
    transform: Transform,
    feeds: Feeds,
    labels: np.ndarray,
    fit_count: int,
    *,
    spec: PipelineSpec,
    on_epoch: Callable[[Epoch], None],
    should_stop: Callable[[], bool],
) -> tuple[Scorer, list[Epoch], dict[str, float]]:
    numbers, ids = (torch.from_numpy(values) for values in transform(feeds))
    mean, std = float(labels[:fit_count].mean()), 1.0
    targets = labels
    if spec.task == "regression":
        std = float(labels[:fit_count].std()) or 1.0
        targets = (labels - mean) / std
    examples = Examples(numbers, ids, torch.from_numpy(targets.astype(np.float32)))
    device = _device()
    fit = Examples(examples.numbers[:fit_count], examples.ids[:fit_count], examples.labels[:fit_count]).to(device)
    held_out = Examples(examples.numbers[fit_count:], examples.ids[fit_count:], examples.labels[fit_count:]).to(device)

    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(spec.training.seed)
        network = make_network(spec.network, numbers.shape[1], transform.id_sizes)
        if spec.task == "binary":
            rate = min(max(mean, 1e-3), 1 - 1e-3)
            network.set_base_rate(float(np.log(rate / (1 - rate))))
        network.to(device)
        epochs: list[Epoch] = []
        for epoch in train_epochs(network, fit, held_out, spec=spec.training, task=spec.task, should_stop=should_stop):
            epochs.append(epoch)
            on_epoch(epoch)
    metrics = {"rows_fit": float(len(fit)), "rows_held_out": float(len(held_out)), "label_mean": float(labels.mean())}
    metrics["train_loss"] = mean_loss(network, fit, spec.task)
    if len(held_out):
        metrics["valid_loss"] = mean_loss(network, held_out, spec.task)
    return Scorer(network, spec.task, mean, std).cpu().eval(), epochs, metrics
