"""A model whose only input is a vector, and models with a field of every kind: what the Open Inference Protocol is tested with."""

from typing import Any

import numpy as np
import spox.opset.ai.onnx.v21 as op
from spox import Tensor, argument

from services.serving.models.loader import codec_for
from services.serving.models.model import read_signature
from services.serving.rows import RowCodec
from shared.spec import parse
from tests.unit.serving.tiny_model import finish


def vector_spec(length: int) -> dict[str, Any]:
    """A pipeline of embeddings; its event time is no input of the model."""
    return {
        "name": "embeddings",
        "task": "regression",
        "key": "id",
        "time": "at",
        "entity": "shop",
        "columns": ["note"],
        "features": {"embedding": {"type": "vector", "length": length}},
        "label": {"name": "value"},
        "dataset": {"window": "30d", "test": "7d"},
    }


def vector_signature(length: int) -> dict[str, Any]:
    """What `vector_model` takes."""
    return {
        "inputs": [{"name": "embedding", "kind": "vector", "required": True, "length": length}],
        "output": "score",
        "task": "regression",
    }


def vector_model(length: int) -> bytes:
    """score = the first number plus twice the last."""
    embedding = argument(Tensor(np.float32, ("n", length)))
    weights = np.zeros(length, np.float32)
    weights[0] += 1
    weights[-1] += 2
    return finish({"embedding": embedding}, op.matmul(embedding, op.const(weights)))


def vector_codec(length: int) -> RowCodec:
    """How its rows are read."""
    spec = parse(vector_spec(length))
    return codec_for(spec, spec, read_signature(vector_signature(length)))
