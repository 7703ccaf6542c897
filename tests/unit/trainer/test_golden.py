"""The rows that a version is held to: made up, at every edge, scored by training code."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
import pytest
import torch
from onnx import numpy_helper

from services.trainer.export import ExportFailed, export_model
from services.trainer.golden import ROWS, UNSEEN, golden_rows, make_golden
from services.trainer.networks import Scorer, make_network
from services.trainer.transform import Transform, feeds_of, fit_transform
from shared.spec import PipelineSpec
from tests.unit.trainer.samples import FEATURES, sample_spec, sample_table


def made(spec: PipelineSpec, table: pa.Table, mean: float = 0.5, std: float = 1.0) -> tuple[bytes, Scorer, Transform]:
    transform = fit_transform(feeds_of(table, spec), spec)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network = make_network(spec.network, len(transform.number_names), transform.id_sizes)
    scorer = Scorer(network, spec.task, mean, std)
    return export_model(scorer, transform, spec, {}), scorer, transform


def rows_of(spec: PipelineSpec, table: pa.Table) -> list[dict[str, Any]]:
    return golden_rows(fit_transform(feeds_of(table, spec), spec).statistics, spec)


def test_rows_have_every_edge_and_are_nobody_s() -> None:
    spec, table = sample_spec(), sample_table(400)
    rows = rows_of(spec, table)
    assert rows == rows_of(spec, table), "the same for the same data and seed"
    assert len(rows) == ROWS
    assert set(rows[0]) == {"at", "embedding"}, "all is missing that may be"
    cities = [row.get("city") for row in rows]
    assert {None, UNSEEN, "Rome"} <= set(cities)
    sizes, prices = ([row[name] for row in rows if name in row] for name in ("size", "price"))
    seen = table.column("size").drop_null().to_numpy()
    assert min(sizes) == pytest.approx(seen.min(), rel=1e-2, abs=1e-2)
    assert max(sizes) > seen.max()
    assert max(prices) > table.column("price").to_numpy().max()
    vectors = {tuple(vector) for vector in table.column("embedding").to_pylist()}
    assert not vectors & {tuple(row["embedding"]) for row in rows}
    assert not set(table.column("price").to_pylist()) & set(prices), "no number of an example"


def test_what_is_required_is_never_missing() -> None:
    features = {
        **FEATURES,
        "city": {**FEATURES["city"], "required": True},
        "size": {"type": "number", "required": True, "scale": "none"},
    }
    rows = rows_of(sample_spec(features), sample_table(200, size=np.linspace(1000, 2000, 200), city=["Rome"] * 200))
    assert all(row["city"] and row["size"] > 999 for row in rows)
    assert len({row["size"] for row in rows}) > ROWS / 2


def test_long_vectors_make_fewer_rows() -> None:
    features = {"embedding": {"type": "vector", "length": 4000}}
    table = pa.table({"embedding": pa.array(np.zeros((3, 4000)).tolist(), pa.list_(pa.float64()))})
    assert len(rows_of(sample_spec(features, time="time"), table)) == 5


@pytest.mark.parametrize(("task", "mean", "std"), [("binary", 0.5, 1.0), ("regression", 1e6, 50.0)])
def test_scores_are_those_of_training_code(task: str, mean: float, std: float) -> None:
    spec, table = sample_spec(task=task), sample_table(300)
    model, scorer, transform = made(spec, table, mean, std)
    golden = make_golden(model, scorer, transform, spec)
    assert len(golden.scores) == len(golden.rows)
    assert np.isfinite(golden.scores).all()
    assert len(set(golden.scores)) > ROWS / 2
    assert (golden.center, golden.unit) == ((0.0, 1.0) if task == "binary" else (mean, std))


def edit_weights(model: bytes, change: Callable[[np.ndarray], np.ndarray]) -> bytes:
    proto = onnx.ModelProto.FromString(model)
    tensors = [*proto.graph.initializer]
    tensors += [a.t for node in proto.graph.node for a in node.attribute if a.HasField("t")]
    matrix = next(t for t in tensors if t.data_type == onnx.TensorProto.FLOAT and list(t.dims)[:1] == [16])
    matrix.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(matrix)), matrix.name))
    return proto.SerializeToString()


def test_a_file_that_serving_would_refuse_is_not_registered() -> None:
    spec = sample_spec()
    model, scorer, transform = made(spec, sample_table(200))
    with pytest.raises(ExportFailed, match=r"row .* of its golden vectors"):
        make_golden(edit_weights(model, lambda weight: weight * np.float32(1.5)), scorer, transform, spec)
