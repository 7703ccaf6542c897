"""String hashes as graph nodes. MurmurHash3 (x86, 32 bits, seed 0, of UTF-8) is the one operator outside of ONNX."""

from collections.abc import Sequence

import numpy as np
import onnx
import spox.opset.ai.onnx.v21 as op
from onnx import TensorProto, helper
from spox import Var, inline

from shared.onnx_check import IR_VERSION, OPSET


def murmur(text: Var) -> Var:
    """The unsigned hash of string [n], as int64 [n]."""
    return op.cast(inline(_MURMUR)(text=text)["hash"], to=np.int64)


def buckets(text: Var, count: int) -> Var:
    """The hash of string [n] modulo `count`, int64 [n]."""
    return op.mod(murmur(text), op.const(np.int64(count)))


def joined(texts: Sequence[Var]) -> Var:
    """One string [n] that stands for several: each prefix is replaced by its hash in decimal, then ':' and the next.

    Digits end at the first colon, so ('a:', 'b') and ('a', ':b') differ whatever the texts hold. A separator that no
    text may hold would be NUL, but ONNX Runtime cuts a string constant there.
    """
    first, *rest = texts
    for text in rest:
        first = op.string_concat(
            op.string_concat(op.cast(murmur(first), to=np.str_), op.const(np.array(":", dtype=np.str_))), text
        )
    return first


def _murmur_model() -> onnx.ModelProto:
    node = helper.make_node("MurmurHash3", ["text"], ["hash"], domain="com.microsoft", positive=1, seed=0)
    graph = helper.make_graph(
        [node],
        "murmur",
        [helper.make_tensor_value_info("text", TensorProto.STRING, ["batch"])],
        [helper.make_tensor_value_info("hash", TensorProto.UINT32, ["batch"])],
    )
    domains = [helper.make_opsetid("", OPSET), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=domains, ir_version=IR_VERSION)


_MURMUR = _murmur_model()
