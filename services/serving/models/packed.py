"""One input tensor in the place of many: a call of ONNX Runtime costs most of a microsecond for each input, used or not.

The transform's graph begins by joining its number inputs. Serving builds them as one matrix anyway, so the joined tensor becomes
the input and the first step falls away. Nothing that is computed changes.
"""

from collections import Counter
from collections.abc import Collection, Iterator

import onnx


def pack(model: onnx.ModelProto, numbers: Collection[str]) -> tuple[str, tuple[str, ...]] | None:
    """Replace number inputs that the graph does nothing with but join them, end to end, by what they are joined to.

    Args:
        model: changed in place.
        numbers: names of the inputs that are float32 [n].

    Returns:
        The new input's name and the inputs it holds, in order: float32 [len(inputs) * n]. None when the graph is of another form.
    """
    graph = model.graph
    uses = Counter(_used(graph))
    for node in graph.node:
        joined = tuple(node.input)
        alone = all(uses[name] == 1 and name in numbers for name in joined)
        if (
            node.op_type == "Concat"
            and node.domain in ("", "ai.onnx")
            and len(joined) > 1
            and alone
            and _axis(node) == 0
        ):
            break
    else:
        return None
    name = node.output[0]
    graph.node.remove(node)
    kept = [given for given in graph.input if given.name not in joined]
    del graph.input[:]
    graph.input.extend(kept)
    graph.input.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["numbers"]))
    return name, joined


def _axis(node: onnx.NodeProto) -> int | None:
    return next((attribute.i for attribute in node.attribute if attribute.name == "axis"), None)


def _used(graph: onnx.GraphProto) -> Iterator[str]:
    """Every name that a node, at any depth, or an output reads."""
    yield from (output.name for output in graph.output)
    for node in graph.node:
        yield from node.input
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _used(inner)
