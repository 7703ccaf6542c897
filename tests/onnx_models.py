"""The smallest real models: enough to score with, written node by node."""

from typing import Any

import onnx
from onnx import TensorProto, helper

NOTHING: dict[str, Any] = {"keys_strings": ["none"], "values_floats": [0.0], "default_float": 0.0}


def linear_model(weight: float, bias: float, *, sigmoid: bool, broken: bool = False) -> bytes:
    """score = weight * distance + bias, through a sigmoid if asked; `broken` gives NaN."""
    nodes = [
        helper.make_node("Mul", ["distance", "w"], ["scaled"]),
        helper.make_node("Add", ["scaled", "b"], ["logit"]),
        # The category is read, so that string inputs are exercised, and adds nothing.
        helper.make_node("LabelEncoder", ["carrier"], ["zero"], domain="ai.onnx.ml", **NOTHING),
        helper.make_node("Add", ["logit", "zero"], ["sum"]),
        helper.make_node("Sigmoid" if sigmoid else "Identity", ["sum"], ["score"]),
    ]
    graph = helper.make_graph(
        nodes,
        "linear",
        [
            helper.make_tensor_value_info("distance", TensorProto.FLOAT, ["n"]),
            helper.make_tensor_value_info("carrier", TensorProto.STRING, ["n"]),
        ],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["n"])],
        [
            helper.make_tensor("w", TensorProto.FLOAT, [], [float("nan") if broken else weight]),
            helper.make_tensor("b", TensorProto.FLOAT, [], [bias]),
        ],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 21), helper.make_opsetid("ai.onnx.ml", 4)], ir_version=10
    )
    onnx.checker.check_model(model, full_check=True)
    data: bytes = model.SerializeToString()
    return data
