"""Fitting the transform and compiling it: `fit_transform` gives the one graph that training and serving both run."""

from dataclasses import dataclass, field

import numpy as np
import onnx
import onnxruntime as ort
import torch
from spox import Var, build

from services.trainer.transform import graph
from services.trainer.transform.fit import Statistics, fit_statistics
from shared.feeds import Feeds
from shared.spec import PipelineSpec

CHUNK_ROWS = 16_384
"""Rows per run of the graph: bounds its intermediate tensors, of which the widest has a few hundred columns."""
NUMBERS, IDS = "transform.numbers", "transform.ids"
"""The graph's outputs: names that no feature can have."""
UNSEEN = 0
"""The id, in every id column, of whatever the train split did not show often enough to learn about."""


@dataclass(frozen=True)
class Transform:
    """The compiled transform.

    `model` takes the raw named inputs and gives `NUMBERS` float32 [n, len(number_names)] and `IDS` int64
    [n, len(id_sizes)], whose column j holds 0 .. id_sizes[j] - 1 and 0 is `UNSEEN`.
    """

    model: onnx.ModelProto
    number_names: tuple[str, ...]
    id_names: tuple[str, ...]
    id_sizes: tuple[int, ...]
    statistics: Statistics = field(repr=False, compare=False)
    """What the graph was compiled from."""
    _session: ort.InferenceSession = field(repr=False, compare=False)

    def __call__(self, feeds: Feeds) -> tuple[np.ndarray, np.ndarray]:
        """Run the graph over input tensors of n rows: (numbers, ids)."""
        numbers, ids = run_in_chunks(self._session, [NUMBERS, IDS], feeds)
        return numbers, ids


def fit_transform(feeds: Feeds, spec: PipelineSpec, *, min_count: int = 1) -> Transform:
    """Fit on the train split and compile.

    Ids that appear in fewer than `min_count` rows of the train split share the id `UNSEEN`, and so does all that the
    split never showed. How often each appears is counted on the graph's own output, not by a second implementation.

    Args:
        feeds: input tensors of the train split, at least one row (see `feeds_of`).
        spec: the pipeline.
        min_count: rows needed for an id of its own.
    """
    inputs = graph.arguments(spec)
    statistics = fit_statistics(feeds, spec)
    numbers, raw_ids = graph.columns(spec, statistics, inputs)
    new_ids = _count_ids(feeds, spec, inputs, raw_ids, min_count)
    ids = [graph.compact(column, new_ids[column.name]) for column in raw_ids]
    first = next(iter(inputs.values()))
    number_columns = graph.concatenated([column.values for column in numbers], first, np.float32)
    id_columns = graph.concatenated([graph.as_column(column.values) for column in ids], number_columns, np.int64)
    model = build(inputs, {NUMBERS: number_columns, IDS: id_columns})
    return Transform(
        model=model,
        number_names=tuple(name for column in numbers for name in column.names),
        id_names=tuple(column.name for column in ids),
        id_sizes=tuple(column.size for column in ids),
        statistics=statistics,
        _session=session(model.SerializeToString()),
    )


def session(model: bytes) -> ort.InferenceSession:
    """An ONNX Runtime session on the CPU, with as many threads as torch was given."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    # Threads that spin while they wait would take the cores from the other processes of a small machine.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def run_in_chunks(runner: ort.InferenceSession, outputs: list[str], feeds: Feeds) -> list[np.ndarray]:
    """Run a session over any number of rows, `CHUNK_ROWS` at a time, and join the outputs."""
    rows = len(next(iter(feeds.values())))
    parts = [
        runner.run(outputs, {name: values[start : start + CHUNK_ROWS] for name, values in feeds.items()})
        for start in range(0, max(rows, 1), CHUNK_ROWS)
    ]
    return [np.concatenate(columns) for columns in zip(*parts, strict=True)]


def _count_ids(
    feeds: Feeds, spec: PipelineSpec, inputs: dict[str, Var], columns: list[graph.IdColumn], min_count: int
) -> dict[str, np.ndarray]:
    """For each id column, the new id of every old one (int64 [size])."""
    if not columns:
        return {}
    outputs: dict[str, Var] = {f"{IDS}.{column.name}": column.values for column in columns}
    used = {name: inputs[name] for name in _id_inputs(spec)}
    runner = session(build(used, outputs).SerializeToString())
    found = run_in_chunks(runner, list(outputs), {name: feeds[name] for name in used})
    return {
        column.name: _renumbered(np.bincount(values, minlength=column.size) >= min_count)
        for column, values in zip(columns, found, strict=True)
    }


def _id_inputs(spec: PipelineSpec) -> list[str]:
    return [name for name, feature in spec.input_features.items() if feature.type in ("category", "timestamp")]


def _renumbered(kept: np.ndarray) -> np.ndarray:
    """1, 2, 3, ... for the ids that are kept, in their order; `UNSEEN` for the rest."""
    return np.where(kept, np.cumsum(kept), UNSEEN).astype(np.int64)
