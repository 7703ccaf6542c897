"""From a table to a checked file: what it scores, what it says of itself, and the tables that are hard."""

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pyarrow as pa
import pytest

from services.trainer.fit_model import FittedModel, fit_model
from services.trainer.loop import Epoch, TrainingStopped
from services.trainer.transform import feeds_of
from shared.errors import Invalid
from shared.onnx_check import IR_VERSION, OPSET, check_model
from shared.spec import PipelineSpec
from tests.unit.trainer.samples import FEATURES, sample_spec, sample_table


def fit(table: pa.Table, spec: PipelineSpec, **settings: Any) -> FittedModel:
    quiet: dict[str, Any] = {"metadata": {}, "on_epoch": lambda _: None, "should_stop": lambda: False}
    return fit_model(table, spec, **{**quiet, **settings})


def scores_of(model: FittedModel, table: pa.Table, spec: PipelineSpec) -> np.ndarray:
    session = ort.InferenceSession(model.onnx_bytes, providers=["CPUExecutionProvider"])
    (scores,) = session.run(["score"], feeds_of(table, spec))
    return scores


def area_under_roc(labels: np.ndarray, scores: np.ndarray) -> float:
    positives, negatives = scores[labels == 1], scores[labels == 0]
    return float((positives[:, None] > negatives[None, :]).mean())


@pytest.mark.parametrize("kind", ["linear", "mlp", "dcn"])
def test_every_network_learns_and_gives_probabilities(kind: str) -> None:
    spec = sample_spec(network={"kind": kind, "hidden": [16], "embedding": 4})
    model = fit(sample_table(2_000, 1), spec)
    test = sample_table(500, 2)
    scores = scores_of(model, test, spec)
    assert scores.dtype == np.float32
    assert scores.shape == (500,)
    assert ((scores >= 0) & (scores <= 1)).all()
    assert area_under_roc(test.column("label").to_numpy(), scores) > 0.75
    assert model.parity_max_diff <= 1e-5


def test_regression_scores_are_in_the_label_s_own_unit() -> None:
    spec = sample_spec(task="regression")
    table = sample_table(2_000, 1)
    label = 1e6 + 5e4 * np.array([values[0] for values in table.column("embedding").to_pylist()])
    model = fit(table.set_column(table.column_names.index("label"), "label", pa.array(label)), spec)
    scores = scores_of(model, table, spec)
    assert np.corrcoef(scores, label)[0, 1] > 0.9
    assert abs(scores.mean() - label.mean()) < 2e4
    assert model.parity_max_diff <= 1e-5


def test_the_file_is_plain_pinned_and_names_no_machine() -> None:
    model = fit(sample_table(300), sample_spec(), metadata={"spec": "abc", "dataset": "def"})
    proto = check_model(model.onnx_bytes)
    assert proto.ir_version == IR_VERSION
    assert {opset.domain: opset.version for opset in proto.opset_import}[""] == OPSET
    assert {entry.key: entry.value for entry in proto.metadata_props} == {"spec": "abc", "dataset": "def"}
    assert b"site-packages" not in model.onnx_bytes
    assert b".py" not in model.onnx_bytes
    onnx.checker.check_model(proto, full_check=True)
    (output,) = proto.graph.output
    assert (output.name, [dim.dim_param for dim in output.type.tensor_type.shape.dim]) == ("score", ["batch"])
    assert [value.name for value in proto.graph.input] == list(sample_spec().input_features)


def test_the_signature_tells_how_to_call_it() -> None:
    features = {**FEATURES, "city": {**FEATURES["city"], "required": True}}
    assert fit(sample_table(200), sample_spec(features)).signature == {
        "inputs": [
            {"name": "city", "kind": "category", "required": True},
            {"name": "kind", "kind": "category", "required": False},
            {"name": "size", "kind": "number", "required": False},
            {"name": "price", "kind": "number", "required": False},
            {"name": "at", "kind": "timestamp", "required": True},
            {"name": "embedding", "kind": "vector", "required": True, "length": 3},
        ],
        "output": "score",
        "task": "binary",
    }


def test_the_same_table_in_any_order_gives_the_same_bytes() -> None:
    table = sample_table(400)
    shuffled = table.take(pa.array(np.random.default_rng(0).permutation(400)))
    assert fit(table, sample_spec()).onnx_bytes == fit(shuffled, sample_spec()).onnx_bytes


def test_features_named_like_the_graph_s_own_tensors() -> None:
    features = dict.fromkeys(("numbers", "ids", "batch", "output", "input"), FEATURES["size"])
    features["embedding"] = FEATURES["embedding"]
    table = sample_table(200)
    for name in features:
        if name != "embedding":
            table = table.append_column(name, table.column("size"))
    spec = sample_spec(features)
    assert np.isfinite(scores_of(fit(table, spec), table, spec)).all()


def test_epochs_are_reported_as_they_end_and_kept() -> None:
    seen: list[Epoch] = []
    model = fit(sample_table(500), sample_spec(), on_epoch=seen.append)
    assert model.epochs == seen
    assert len(seen) >= 1


def test_a_refit_learns_from_the_newest_rows_too() -> None:
    table = sample_table(400)
    newest = [f"only lately {index % 2}" for index in range(40)]
    cities = [*table.column("city").to_pylist()[:360], *newest]
    table = table.set_column(table.column_names.index("city"), "city", pa.array(cities, pa.string()))
    features = {"city": {"type": "category", "vocabulary": 50}}
    once = fit(table, sample_spec(features, training={"epochs": 3, "refit": False}))
    again = fit(table, sample_spec(features, training={"epochs": 3, "refit": True}))
    assert b"only lately" not in once.onnx_bytes
    assert b"only lately" in again.onnx_bytes
    assert [epoch.epoch for epoch in again.epochs] == list(range(1, len(again.epochs) + 1))
    assert len(again.epochs) == len(once.epochs) + again.metrics["best_epoch"]
    assert again.epochs[-1].valid_loss is None
    assert once.metrics["valid_loss"] == again.metrics["valid_loss"]


def test_it_stops_when_asked() -> None:
    with pytest.raises(TrainingStopped):
        fit(sample_table(300), sample_spec(), should_stop=lambda: True)


def test_values_and_months_never_seen_and_absurd_numbers_get_finite_probabilities() -> None:
    spec = sample_spec()
    model = fit(sample_table(500), spec)
    strange = sample_table(
        8,
        city=["Atlantis", "", "é", "\x1f", "Rome ", "日本", "x" * 10_000, "ROME"],
        size=[1e300, -1e300, float("inf"), float("-inf"), float("nan"), 0.0, 1e-300, 1e9],
        price=[1e300, -1e300, float("inf"), float("-inf"), float("nan"), 0.0, 1e-300, -1.0],
        at=pa.array(np.linspace(-6e16, 2e17, 8).astype(np.int64), pa.int64()),
        embedding=pa.array([[1e300, -1e300, 0.0]] * 8),
    )
    scores = scores_of(model, strange, spec)
    assert np.isfinite(scores).all()
    assert ((scores >= 0) & (scores <= 1)).all()


NULLS = {"size": pa.nulls(30, pa.float64()), "city": pa.nulls(30, pa.string())}
CONSTANTS = {"size": [2.5] * 30, "price": [0.0] * 30, "city": ["Rome"] * 30, "kind": ["a"] * 30}


@pytest.mark.parametrize(
    ("task", "rows", "changes"),
    [
        ("binary", 1, {}),
        ("regression", 1, {}),
        ("binary", 30, {"label": [1.0] * 30}),
        ("binary", 30, {"label": [0.0] * 30}),
        ("regression", 30, {"label": [7.0] * 30}),
        ("regression", 30, {"label": [1e9 + index % 2 for index in range(30)]}),
        ("binary", 30, CONSTANTS),
        ("regression", 30, NULLS),
        ("binary", 30, {"time": pa.array([0] * 30, pa.timestamp("us", tz="UTC"))}),
    ],
    ids=[
        "one row",
        "one value",
        "all ones",
        "all zeros",
        "all sevens",
        "large mean",
        "constants",
        "nulls",
        "one moment",
    ],
)
def test_tables_with_little_to_tell_still_give_a_model(task: str, rows: int, changes: dict[str, Any]) -> None:
    spec = sample_spec(task=task)
    table = sample_table(rows, **changes)
    assert np.isfinite(scores_of(fit(table, spec), table, spec)).all()


@pytest.mark.parametrize(("kind", "name"), [("linear", "city"), ("mlp", "size"), ("mlp", "city"), ("dcn", "embedding")])
def test_a_single_feature_is_enough(kind: str, name: str) -> None:
    spec = sample_spec({name: FEATURES[name]}, network={"kind": kind, "hidden": [4]})
    table = sample_table(100)
    assert np.isfinite(scores_of(fit(table, spec), table, spec)).all()


def test_a_vocabulary_of_a_hundred_thousand_values_is_exported() -> None:
    rows = 110_000
    spec = sample_spec(
        {"city": {"type": "category", "vocabulary": 100_000}}, training={"epochs": 1, "batch_size": 16_384}
    )
    table = sample_table(rows, city=[f"value {index}" for index in range(rows)])
    model = fit(table.select(["key", "time", "city", "label"]), spec)
    assert model.parity_max_diff <= 1e-5


def test_a_table_without_rows_is_refused() -> None:
    with pytest.raises(Invalid, match="no rows"):
        fit(sample_table(5).slice(0, 0), sample_spec())
