"""The checks between training and registration: each one must fail when what it guards is broken."""

from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import numpy_helper

from services.trainer.export import ExportFailed, check_export, export_model
from services.trainer.networks import Scorer, make_network
from services.trainer.transform import Transform, feeds_of, fit_transform
from services.trainer.transform.feeds import Feeds
from tests.unit.trainer.samples import sample_spec, sample_table

Made = tuple[bytes, Feeds, Scorer, Transform]


@pytest.fixture(scope="module")
def made() -> Made:
    spec = sample_spec()
    feeds = feeds_of(sample_table(200), spec)
    transform = fit_transform(feeds, spec)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network = make_network(spec.network, len(transform.number_names), transform.id_sizes)
    scorer = Scorer(network, "binary", 0.5, 1.0)
    return export_model(scorer, transform, spec, {}), feeds, scorer, transform


def test_the_exported_file_equals_torch(made: Made) -> None:
    assert check_export(*made) < 1e-6


def test_exporting_says_nothing(made: Made, capfd: pytest.CaptureFixture[str]) -> None:
    _, _, scorer, transform = made
    export_model(scorer, transform, sample_spec(), {})
    assert capfd.readouterr() == ("", "")


def edit_weights(model: bytes, change: Callable[[np.ndarray], np.ndarray]) -> bytes:
    """Change the first weight matrix of the network."""
    proto = onnx.ModelProto.FromString(model)
    tensors = [*proto.graph.initializer]
    tensors += [a.t for node in proto.graph.node for a in node.attribute if a.HasField("t")]
    matrix = next(t for t in tensors if t.data_type == onnx.TensorProto.FLOAT and list(t.dims)[:1] == [16])
    matrix.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(matrix)), matrix.name))
    return proto.SerializeToString()


def test_a_file_that_scores_differently_fails(made: Made) -> None:
    model, feeds, scorer, transform = made
    with pytest.raises(ExportFailed, match="differs from torch"):
        check_export(edit_weights(model, lambda weight: weight + np.float32(0.1)), feeds, scorer, transform)


def test_a_file_that_gives_nan_fails(made: Made) -> None:
    model, feeds, scorer, transform = made
    with pytest.raises(ExportFailed, match="not finite"):
        check_export(edit_weights(model, lambda weight: weight * np.float32(np.nan)), feeds, scorer, transform)


def test_a_file_that_looks_at_other_rows_fails(made: Made) -> None:
    """The score minus the batch's mean plus the mean itself is right only for one batch size."""
    model, feeds, scorer, transform = made
    proto = onnx.ModelProto.FromString(model)
    proto.graph.node[-1].output[0] = "own"
    proto.graph.node.append(onnx.helper.make_node("ReduceMean", ["own"], ["mean"], keepdims=1))
    batch_mean = np.float32(onnx_scores(model, feeds).mean())
    proto.graph.initializer.append(numpy_helper.from_array(np.array([batch_mean], np.float32), "whole"))
    proto.graph.node.append(onnx.helper.make_node("Sub", ["mean", "whole"], ["shift"]))
    proto.graph.node.append(onnx.helper.make_node("Add", ["own", "shift"], ["score"]))
    with pytest.raises(ExportFailed, match="differently alone"):
        check_export(proto.SerializeToString(), feeds, scorer, transform)


def onnx_scores(model: bytes, feeds: Feeds) -> np.ndarray:
    return ort.InferenceSession(model).run(["score"], feeds)[0]
