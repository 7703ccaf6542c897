"""One input tensor in the place of many: a call of ONNX Runtime costs most of a microsecond for each input and each step.

The transform's graph begins by making one matrix of its number inputs. Serving has the numbers row by row anyway, so the matrix
becomes the input, and the steps that made it fall away. Nothing that is computed changes.
"""

from collections import Counter
from collections.abc import Collection, Iterator

import onnx
from onnx import numpy_helper


def pack(model: onnx.ModelProto, numbers: Collection[str]) -> tuple[str, tuple[str, ...]] | None:
    """Replace number inputs that the graph does nothing with but make a matrix of them by that matrix.

    Args:
        model: changed in place.
        numbers: names of the inputs that are float32 [n].

    Returns:
        The new input's name and the inputs that are its columns, in order: float32 [n, columns]. None when the graph is of another
        form, and then it is as it was.
    """
    graph = model.graph
    uses = Counter(_used(graph))
    joined = next((node for node in graph.node if _joins(node, numbers, uses)), None)
    if joined is None:
        return None
    reshaped = _only_reader(graph, joined, uses, "Reshape")
    matrix = reshaped and _only_reader(graph, reshaped, uses, "Transpose")
    if reshaped is None or matrix is None:
        return None
    columns = tuple(joined.input)
    if _constant(graph, reshaped.input[1]) != [len(columns), -1] or _attribute(matrix, "perm") not in (None, [1, 0]):
        return None
    for node in (joined, reshaped, matrix):
        graph.node.remove(node)
    kept = [given for given in graph.input if given.name not in columns]
    name = matrix.output[0]
    del graph.input[:]
    graph.input.extend(kept)
    graph.input.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", len(columns)]))
    return name, columns


def _joins(node: onnx.NodeProto, numbers: Collection[str], uses: Counter[str]) -> bool:
    """Whether a node lays number inputs that nothing else reads end to end."""
    alone = all(uses[name] == 1 and name in numbers for name in node.input)
    return _is(node, "Concat") and len(node.input) > 1 and alone and _attribute(node, "axis") == 0


def _only_reader(graph: onnx.GraphProto, node: onnx.NodeProto, uses: Counter[str], kind: str) -> onnx.NodeProto | None:
    name = node.output[0]
    found = [reader for reader in graph.node if reader.input and reader.input[0] == name]
    return found[0] if len(found) == uses[name] == 1 and _is(found[0], kind) else None


def _is(node: onnx.NodeProto, kind: str) -> bool:
    return node.op_type == kind and node.domain in ("", "ai.onnx")


def _attribute(node: onnx.NodeProto, name: str) -> object:
    found = next((attribute for attribute in node.attribute if attribute.name == name), None)
    return None if found is None else onnx.helper.get_attribute_value(found)


def _constant(graph: onnx.GraphProto, name: str) -> object:
    """The values of a constant or initializer, as a list; None when it is neither."""
    tensors = [tensor for tensor in graph.initializer if tensor.name == name]
    tensors += [
        attribute.t
        for node in graph.node
        if _is(node, "Constant") and name in node.output
        for attribute in node.attribute
        if attribute.name == "value"
    ]
    return numpy_helper.to_array(tensors[0]).tolist() if tensors else None


def _used(graph: onnx.GraphProto) -> Iterator[str]:
    """Every name that a node, at any depth, or an output reads."""
    yield from (output.name for output in graph.output)
    for node in graph.node:
        yield from node.input
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _used(inner)
