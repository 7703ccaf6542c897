"""Real, tiny ONNX models of one pipeline, built as the trainer builds them: raw named inputs in, `score` out."""

from typing import Any

import numpy as np
import onnx
import spox.opset.ai.onnx.v21 as op
from spox import Tensor, argument, build

from shared.golden import Golden
from shared.onnx_check import IR_VERSION

SPEC: dict[str, Any] = {
    "name": "delays",
    "task": "binary",
    "key": "flight",
    "time": "departs",
    "entity": "tail",
    "columns": ["note"],
    "features": {
        "carrier": {"type": "category", "vocabulary": 8},
        "distance": {"type": "number"},
        "departs": {"type": "timestamp", "calendar": ["hour"]},
    },
    "label": {"name": "late"},
    "dataset": {"window": "30d", "test": "7d"},
}
SIGNATURE: dict[str, Any] = {
    "inputs": [
        {"name": "carrier", "kind": "category", "required": False},
        {"name": "distance", "kind": "number", "required": False},
        {"name": "departs", "kind": "timestamp", "required": True},
    ],
    "output": "score",
    "task": "binary",
}


def tiny_model(base: float, *, weight: float = 0.0) -> bytes:
    """score = base + 0.125 if carrier is AA, + weight * distance in thousands (missing counts as 0); within 0 and 1."""
    batch = "batch"
    inputs = {
        "carrier": argument(Tensor(np.str_, (batch,))),
        "distance": argument(Tensor(np.float32, (batch,))),
        "departs": argument(Tensor(np.int64, (batch,))),
    }
    zero = op.const(np.float32(0))
    distance = op.where(op.isnan(inputs["distance"]), zero, inputs["distance"])
    score = op.add(
        op.const(np.float32(base)),
        op.add(
            op.mul(
                op.cast(op.equal(inputs["carrier"], op.const(np.array("AA"))), to=np.float32),
                op.const(np.float32(0.125)),
            ),
            op.mul(distance, op.const(np.float32(weight / 1000))),
        ),
    )
    still = op.mul(op.cast(inputs["departs"], to=np.float32), zero)
    return finish(inputs, op.clip(op.add(score, still), zero, op.const(np.float32(1))))


def tiny_golden(base: float, *, weight: float = 0.0) -> Golden:
    """Golden vectors of `tiny_model`, by arithmetic."""
    departs = 1_370_188_800_000_000
    rows: list[dict[str, Any]] = [
        {"departs": departs},
        {"departs": departs, "carrier": "AA", "distance": 100.0},
        {"departs": departs, "carrier": "UA", "distance": 400.0},
    ]
    return Golden(rows, [base, base + 0.125 + weight * 0.1, base + weight * 0.4])


def finish(inputs: dict[str, Any], score: Any) -> bytes:
    """The file of a graph with this output."""
    model: onnx.ModelProto = build(inputs, {"score": score})
    model.ir_version = IR_VERSION
    data: bytes = model.SerializeToString(deterministic=True)
    return data
