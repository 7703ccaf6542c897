"""Running a model version's one ONNX file over many rows. Serving answers requests with the very same file."""

from collections.abc import Mapping

import numpy as np
import onnxruntime as ort

from shared.errors import Invalid

OUTPUT = "score"
BATCH_ROWS = 16_384
"""Rows per run of the graph: bounds its intermediate tensors."""


def open_model(data: bytes, *, threads: int) -> ort.InferenceSession:
    """An ONNX Runtime session on the CPU, from the file's bytes (check them first: `shared.onnx_check.check_model`).

    Raises:
        Invalid: ONNX Runtime cannot load it.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Idle threads must not spin: other processes share these cores.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime raises many unrelated classes here
        raise Invalid(f"ONNX Runtime cannot load the model: {str(error).splitlines()[0]}") from error


def score(model: ort.InferenceSession, feeds: Mapping[str, np.ndarray], *, batch_rows: int = BATCH_ROWS) -> np.ndarray:
    """Scores of n rows, in batches.

    Args:
        model: as from `open_model`.
        feeds: raw named inputs, [n, ...] each.

    Returns:
        float32 [n]: probabilities (binary) or values (regression).

    Raises:
        Invalid: the inputs do not fit the graph, or it does not give one float32 for each row.
    """
    rows = {len(values) for values in feeds.values()}
    if len(rows) != 1:
        raise Invalid(f"The inputs differ in their number of rows: {sorted(rows)}.")
    total = rows.pop()
    parts = [np.empty(0, np.float32)]
    for start in range(0, total, batch_rows):
        batch = {name: values[start : start + batch_rows] for name, values in feeds.items()}
        try:
            (part,) = model.run([OUTPUT], batch)
        except Exception as error:  # ONNX Runtime raises many unrelated classes here
            raise Invalid(f"The model cannot score these rows: {str(error).splitlines()[0]}") from error
        expected = min(batch_rows, total - start)
        if part.dtype != np.float32 or part.shape != (expected,):
            raise Invalid(
                f"The model gave {part.dtype} {list(part.shape)} for {expected} rows, not float32 [{expected}]."
            )
        parts.append(part)
    return np.concatenate(parts)
