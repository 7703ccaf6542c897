"""What a model file may hold before anything runs it: one self-contained ONNX graph of plain operators.

The trainer checks the bytes it registers, serving the bytes it loads. Nothing here executes the graph.
"""

from collections.abc import Iterator

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from shared.errors import Invalid

OPSET = 21
"""The ai.onnx opset that models are written in, and the newest that is accepted."""
OPSET_ML = 4
"""The same for ai.onnx.ml."""
IR_VERSION = 10
MAX_BYTES = 512 * 1024 * 1024

ALLOWED_OPSETS = {"": OPSET, "ai.onnx": OPSET, "ai.onnx.ml": OPSET_ML, "com.microsoft": 1}
"""Newest accepted opset by domain; a domain that is not here is refused."""
CONTRIB_OPERATORS = frozenset({"MurmurHash3"})
"""The only com.microsoft operators: ONNX itself has no string hash."""


def check_model(data: bytes, *, max_bytes: int = MAX_BYTES) -> onnx.ModelProto:
    """Parse a model and refuse whatever could reach outside the file or past the portable operators.

    Raises:
        Invalid: too large, not ONNX, too new, an operator that is not allowed, model-local functions, or tensors kept
            outside the file.
    """
    if len(data) > max_bytes:
        raise Invalid(f"The model has {len(data)} bytes; at most {max_bytes} are accepted.")
    try:
        model = onnx.ModelProto.FromString(data)
    except DecodeError:
        raise Invalid("The model is not an ONNX file: its bytes cannot be parsed. Export it again.") from None
    if not model.graph.node:
        raise Invalid("The model is not an ONNX file with a graph: it has no nodes. Export it again.")
    _check_versions(model)
    if model.functions:
        raise Invalid("The model holds model-local functions; inline them into the graph before export.")
    if model.training_info:
        raise Invalid("The model holds training graphs; export it for inference only.")
    _check_graph(model.graph, "graph")
    return model


def _check_versions(model: onnx.ModelProto) -> None:
    if not 1 <= model.ir_version <= IR_VERSION:
        raise Invalid(f"The model has ONNX IR version {model.ir_version}; 1 to {IR_VERSION} are accepted.")
    for opset in model.opset_import:
        newest = ALLOWED_OPSETS.get(opset.domain)
        if newest is None:
            raise Invalid(f"The model imports operators of the domain {opset.domain!r}, which is not allowed.")
        if not 1 <= opset.version <= newest:
            raise Invalid(
                f"The model uses opset {opset.version} of {opset.domain or 'ai.onnx'}; 1 to {newest} are accepted."
            )


def _check_graph(graph: onnx.GraphProto, where: str) -> None:
    for tensor in graph.initializer:
        _check_tensor(tensor, f"initializer {tensor.name} of {where}")
    for sparse in graph.sparse_initializer:
        _check_sparse(sparse, f"sparse initializer {sparse.values.name} of {where}")
    for node in graph.node:
        here = f"node {node.name or node.op_type} of {where}"
        if node.domain not in ALLOWED_OPSETS:
            raise Invalid(
                f"The operator {node.op_type} of {here} is of the domain {node.domain!r}, which is not allowed."
            )
        if node.domain == "com.microsoft" and node.op_type not in CONTRIB_OPERATORS:
            raise Invalid(
                f"The operator com.microsoft.{node.op_type} of {here} is not allowed; use standard operators."
            )
        for attribute in node.attribute:
            _check_attribute(attribute, here)


def _check_attribute(attribute: onnx.AttributeProto, where: str) -> None:
    """Look at every field, whatever `type` claims: a reader may trust the field and not the type."""
    for tensor in _present(attribute, "t", "tensors"):
        _check_tensor(tensor, f"attribute {attribute.name} of {where}")
    for sparse in _present(attribute, "sparse_tensor", "sparse_tensors"):
        _check_sparse(sparse, f"attribute {attribute.name} of {where}")
    for graph in _present(attribute, "g", "graphs"):
        _check_graph(graph, f"attribute {attribute.name} of {where}")


def _present(attribute: onnx.AttributeProto, single: str, many: str) -> Iterator[object]:
    if attribute.HasField(single):
        yield getattr(attribute, single)
    yield from getattr(attribute, many)


def _check_sparse(sparse: onnx.SparseTensorProto, where: str) -> None:
    _check_tensor(sparse.values, where)
    _check_tensor(sparse.indices, where)


def _check_tensor(tensor: onnx.TensorProto, where: str) -> None:
    if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
        raise Invalid(f"The {where} keeps its data outside the file; save the model with all its tensors inside.")
