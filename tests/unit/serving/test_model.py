"""A model answers only after its file, its signature and its warm-up are in order."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import onnx
import pytest
import spox.opset.ai.onnx.v21 as op
from spox import Tensor, argument

from services.serving.models.model import Model, open_model, read_signature
from shared.errors import Invalid
from tests.unit.serving.tiny_model import SIGNATURE, finish, tiny_model


def opened(data: bytes, signature: dict[str, Any] = SIGNATURE) -> Model:
    return open_model(data, read_signature(signature), threads=1)


def with_input(kind: str, **fields: Any) -> dict[str, Any]:
    """A signature with one input named x."""
    return {
        "inputs": [{"name": "x", "kind": kind, "required": False, **fields}],
        "output": "score",
        "task": "regression",
    }


def one_input(dtype: Any, shape: tuple[Any, ...], score: Any) -> bytes:
    x = argument(Tensor(dtype, shape))
    return finish({"x": x}, score(x))


def test_rows_become_scores() -> None:
    model = opened(tiny_model(0.25, weight=0.5))
    feeds = {
        "carrier": np.array(["AA", "", "UA"], dtype=object),
        "distance": np.array([500, np.nan, 1000], dtype=np.float32),
        "departs": np.full(3, 1_370_188_800_000_000),
    }
    scores = model.score(model.signature.feeds(feeds))
    assert scores.dtype == np.float32
    assert scores.tolist() == [0.625, 0.25, 0.75]
    assert model.cost.of(1) > 0


def test_a_row_of_numbers_alone_scores_as_among_others_in_any_thread_and_its_score_stays() -> None:
    first, second = (argument(Tensor(np.float32, ("n",))) for _ in range(2))
    joined = op.reshape(op.concat([first, second], axis=0), op.const(np.array([2, -1])))
    matrix = op.transpose(joined, perm=[1, 0])
    known = op.where(op.isnan(matrix), op.const(np.float32(0)), matrix)
    total = op.reduce_sum(known, op.const(np.array([1])), keepdims=0)
    inputs = [{"name": name, "kind": "number", "required": True} for name in ("first", "second")]
    signature = {"inputs": inputs, "output": "score", "task": "regression"}
    model = opened(finish({"first": first, "second": second}, total), signature)
    packed_as = model.signature.packed_as
    assert model.signature.packed == ("first", "second")
    rows = np.random.default_rng(7).normal(size=(2000, 2)).astype(np.float32)
    rows[::3, 0] = np.nan
    together = model.score({packed_as: rows})

    def one(index: int) -> np.ndarray:
        return model.score({packed_as: rows[index : index + 1]})

    kept = [one(index) for index in range(len(rows))]
    assert np.concatenate(kept).tolist() == together.tolist()
    with ThreadPoolExecutor(4) as pool:
        assert np.concatenate(list(pool.map(one, range(len(rows))))).tolist() == together.tolist()


REFUSED = {
    "not onnx": (b"no model", SIGNATURE, "not an ONNX file"),
    "cut short": (tiny_model(0.5)[:200], SIGNATURE, "cannot be parsed"),
    "an input too many": (tiny_model(0.5), {**SIGNATURE, "inputs": SIGNATURE["inputs"][:2]}, "departs"),
    "an input of another type": (
        one_input(np.float64, ("n",), lambda x: op.cast(x, to=np.float32)),
        with_input("number"),
        "x is a tensor of double",
    ),
    "a fixed number of rows": (one_input(np.float32, (4,), op.abs), with_input("number"), "any number of rows"),
    "a vector of another length": (
        one_input(np.float32, ("n", 3), lambda x: op.reduce_sum(x, op.const(np.array([1])), keepdims=0)),
        with_input("vector", length=4),
        "length 3",
    ),
    "not finite": (one_input(np.float32, ("n",), op.log), with_input("number"), "not finite"),
    "one score for all rows": (
        one_input(np.float32, ("n",), lambda x: op.reduce_sum(x, keepdims=1)),
        with_input("number"),
        "rows",
    ),
    "a probability over 1": (
        one_input(
            np.float32, ("n",), lambda x: op.where(op.isnan(x), op.const(np.float32(2)), op.const(np.float32(2)))
        ),
        {**with_input("number"), "task": "binary"},
        "outside of 0 and 1",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_serve_is_refused_with_the_reason(name: str) -> None:
    data, signature, reason = REFUSED[name]
    with pytest.raises(Invalid, match=reason):
        opened(data, signature)


def test_a_model_that_keeps_tensors_outside_of_the_file_is_refused() -> None:
    model = onnx.ModelProto.FromString(tiny_model(0.5))
    tensor = model.graph.node[0].attribute[0].t if model.graph.node[0].attribute else model.graph.initializer[0]
    tensor.data_location = onnx.TensorProto.EXTERNAL
    with pytest.raises(Invalid, match="outside the file"):
        opened(model.SerializeToString())


@pytest.mark.parametrize(
    "signature",
    [
        {},
        {"inputs": [], "output": "score", "task": "binary"},
        {**SIGNATURE, "output": "y"},
        with_input("picture"),
        {"inputs": 3},
    ],
)
def test_a_signature_of_another_form_is_refused(signature: dict[str, Any]) -> None:
    with pytest.raises(Invalid, match="signature"):
        read_signature(signature)
