"""The allow-list: what a model file may hold, wherever in the file it hides."""

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from shared.errors import Invalid
from shared.onnx_check import IR_VERSION, OPSET, OPSET_ML, check_model


def graph_of(*nodes: onnx.NodeProto, initializers: list[onnx.TensorProto] | None = None) -> onnx.GraphProto:
    return helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"])],
        initializer=initializers or [],
    )


def model_of(graph: onnx.GraphProto, *, opset: int = OPSET, ir: int = IR_VERSION) -> onnx.ModelProto:
    domains = [("", opset), ("ai.onnx.ml", OPSET_ML), ("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=[helper.make_opsetid(*d) for d in domains], ir_version=ir)


def plain() -> onnx.ModelProto:
    return model_of(graph_of(helper.make_node("Relu", ["x"], ["y"])))


def external(name: str = "w") -> onnx.TensorProto:
    tensor = numpy_helper.from_array(np.zeros(2, np.float32), name)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "../../secret"
    return tensor


def sparse(values: onnx.TensorProto, indices: onnx.TensorProto | None = None) -> onnx.SparseTensorProto:
    return onnx.SparseTensorProto(
        values=values, indices=indices or numpy_helper.from_array(np.zeros(2, np.int64), "i"), dims=[4]
    )


def in_initializer() -> onnx.ModelProto:
    return model_of(graph_of(helper.make_node("Add", ["x", "w"], ["y"]), initializers=[external()]))


def in_initializer_marked_as_inside() -> onnx.ModelProto:
    model = in_initializer()
    model.graph.initializer[0].data_location = TensorProto.DEFAULT
    return model


def in_sparse_values() -> onnx.ModelProto:
    model = plain()
    model.graph.sparse_initializer.append(sparse(external()))
    return model


def in_sparse_indices() -> onnx.ModelProto:
    model = plain()
    model.graph.sparse_initializer.append(sparse(numpy_helper.from_array(np.zeros(2, np.float32), "v"), external("i")))
    return model


def in_constant() -> onnx.ModelProto:
    node = helper.make_node("Constant", [], ["w"], value=external())
    return model_of(graph_of(node, helper.make_node("Add", ["x", "w"], ["y"])))


def in_constant_with_a_false_type() -> onnx.ModelProto:
    model = in_constant()
    model.graph.node[0].attribute[0].type = onnx.AttributeProto.INT
    return model


def in_tensor_list() -> onnx.ModelProto:
    model = plain()
    attribute = model.graph.node[0].attribute.add()
    attribute.name, attribute.type = "many", onnx.AttributeProto.TENSORS
    attribute.tensors.append(external())
    return model


def in_sparse_attribute() -> onnx.ModelProto:
    model = plain()
    attribute = model.graph.node[0].attribute.add()
    attribute.name, attribute.type = "sparse_value", onnx.AttributeProto.SPARSE_TENSOR
    attribute.sparse_tensor.CopyFrom(sparse(external()))
    return model


def in_subgraph_of_subgraph() -> onnx.ModelProto:
    inner = in_constant().graph
    middle = graph_of(helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner))
    outer = helper.make_node("If", ["c"], ["y"], then_branch=plain().graph, else_branch=middle)
    return model_of(graph_of(outer))


OUTSIDE = [
    in_initializer,
    in_initializer_marked_as_inside,
    in_sparse_values,
    in_sparse_indices,
    in_constant,
    in_constant_with_a_false_type,
    in_tensor_list,
    in_sparse_attribute,
    in_subgraph_of_subgraph,
]


@pytest.mark.parametrize("build", OUTSIDE, ids=lambda build: build.__name__)
def test_external_data_is_refused(build: Callable[[], onnx.ModelProto]) -> None:
    with pytest.raises(Invalid, match="outside the file"):
        check_model(build().SerializeToString())


def test_a_plain_model_passes() -> None:
    assert check_model(plain().SerializeToString()).graph.node[0].op_type == "Relu"


def test_the_string_hash_passes_and_other_contrib_operators_do_not() -> None:
    def hashed(operator: str) -> bytes:
        return model_of(graph_of(helper.make_node(operator, ["x"], ["y"], domain="com.microsoft"))).SerializeToString()

    check_model(hashed("MurmurHash3"))
    with pytest.raises(Invalid, match=r"com\.microsoft\.Gelu"):
        check_model(hashed("Gelu"))


def test_a_foreign_domain_is_refused_on_a_node_and_among_the_imports() -> None:
    with pytest.raises(Invalid, match="'evil'"):
        check_model(model_of(graph_of(helper.make_node("Run", ["x"], ["y"], domain="evil"))).SerializeToString())
    model = plain()
    model.opset_import.append(helper.make_opsetid("evil", 1))
    with pytest.raises(Invalid, match="'evil'"):
        check_model(model.SerializeToString())


def test_a_foreign_operator_in_a_subgraph_is_refused() -> None:
    inner = graph_of(helper.make_node("Run", ["x"], ["y"], domain="evil"))
    node = helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=plain().graph)
    with pytest.raises(Invalid, match="'evil'"):
        check_model(model_of(graph_of(node)).SerializeToString())


def test_functions_are_refused() -> None:
    model = plain()
    model.functions.append(
        helper.make_function(
            "ai.onnx.ml", "f", ["x"], ["y"], in_constant().graph.node, [helper.make_opsetid("", OPSET)]
        )
    )
    with pytest.raises(Invalid, match="functions"):
        check_model(model.SerializeToString())


def test_training_graphs_are_refused() -> None:
    model = plain()
    model.training_info.add().algorithm.CopyFrom(in_constant().graph)
    with pytest.raises(Invalid, match="training"):
        check_model(model.SerializeToString())


@pytest.mark.parametrize("model", [model_of(plain().graph, opset=OPSET + 1), model_of(plain().graph, opset=0)])
def test_an_opset_out_of_range_is_refused(model: onnx.ModelProto) -> None:
    with pytest.raises(Invalid, match="opset"):
        check_model(model.SerializeToString())


def test_a_newer_ir_version_is_refused() -> None:
    with pytest.raises(Invalid, match="IR version"):
        check_model(model_of(plain().graph, ir=IR_VERSION + 1).SerializeToString())


@pytest.mark.parametrize("data", [b"", b"not a model", b"\xff" * 100, b"\x08\x0a"])
def test_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(Invalid, match="not an ONNX file"):
        check_model(data)


def test_a_large_file_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(Invalid, match="at most 10"):
        check_model(b"x" * 11, max_bytes=10)


def test_deep_nesting_is_refused_and_does_not_crash() -> None:
    def field(number: int, payload: bytes) -> bytes:
        length, size = bytearray(), len(payload)
        while size >= 128:
            length.append(size % 128 + 128)
            size //= 128
        return bytes([number << 3 | 2, *length, size]) + payload

    graph = b""
    for _ in range(2_000):  # GraphProto.node = 1, NodeProto.attribute = 5, AttributeProto.g = 6
        graph = field(1, field(5, field(6, graph)))
    with pytest.raises(Invalid, match="not an ONNX file"):
        check_model(b"\x08\x0a" + field(7, graph))
