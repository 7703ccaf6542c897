"""One model version in memory: an ONNX Runtime session checked against its signature and warmed. Tensors in, scores out."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from statistics import median
from typing import Any, Literal

import numpy as np
import onnx
import onnxruntime as ort

from services.serving.models.packed import pack
from services.serving.run_cost import RunCost
from shared.errors import Invalid
from shared.onnx_check import check_model

OUTPUT = "score"
_OUTPUTS = [OUTPUT]
MANY = 256
WARM_UP_ROWS = (1, 2, 32, MANY)
"""Batch sizes run before a version may answer: the first run of a session allocates and is slow."""
TIMED_RUNS = 5

Kind = Literal["category", "number", "timestamp", "vector"]
Feeds = dict[str, np.ndarray]

_ELEMENT = {
    "category": onnx.TensorProto.STRING,
    "number": onnx.TensorProto.FLOAT,
    "timestamp": onnx.TensorProto.INT64,
    "vector": onnx.TensorProto.FLOAT,
}


@dataclass(frozen=True, slots=True)
class Input:
    """One input tensor. Scalars have the shape [n], a vector [n, length]."""

    name: str
    kind: Kind
    length: int = 0


@dataclass(frozen=True, slots=True)
class Signature:
    """What a version takes and gives."""

    inputs: tuple[Input, ...]
    task: str
    packed: tuple[str, ...] = ()
    """Inputs that are given as the columns of the one input `packed_as`, float32 [n, columns] (see `packed.pack`)."""
    packed_as: str = ""

    def feeds(self, tensors: Feeds) -> Feeds:
        """What a session takes, of a tensor for each input."""
        if not self.packed:
            return tensors
        feeds = {name: tensor for name, tensor in tensors.items() if name not in self.packed}
        return feeds | {self.packed_as: np.stack([tensors[name] for name in self.packed], axis=1)}


def read_signature(document: Mapping[str, Any]) -> Signature:
    """The signature as the trainer registered it.

    Raises:
        Invalid: it is not of that form.
    """
    try:
        inputs = tuple(
            Input(entry["name"], entry["kind"], int(entry.get("length") or 0)) for entry in document["inputs"]
        )
        if document["output"] != OUTPUT or not inputs or any(given.kind not in _ELEMENT for given in inputs):
            raise KeyError
        return Signature(inputs, str(document["task"]))
    except (KeyError, TypeError, ValueError, AttributeError):
        raise Invalid("The version's signature is not one that serving knows; train the version again.") from None


class Model:
    """A session ready to answer. `score` may be called from several threads at once."""

    def __init__(self, session: ort.InferenceSession, signature: Signature, cost: RunCost) -> None:
        # Not `run`, which looks at the inputs again in Python: what feeds the model is made of its signature.
        self._run = session._sess.run
        self._single = _Single.of(session, signature)
        self.signature = signature
        self.cost = cost
        """What a run takes, as measured when the model was warmed."""

    def score(self, feeds: Feeds) -> np.ndarray:
        """The scores of n rows, float32 [n]: a probability for a binary task, else the predicted value.

        Args:
            feeds: as `Signature.feeds` gives them: category object [n], number float32 [n], timestamp int64 [n], vector float32
                [n, length].
        """
        scores = None if self._single is None else self._single.score(feeds)
        return self._run(_OUTPUTS, feeds, None)[0] if scores is None else scores


class _Single:
    """Runs over one row of one packed input, in memory that is bound to the session once: a third of such a run is to find names
    and make tensors. Usable from several threads: who comes second while one runs is told so.
    """

    def __init__(self, session: ort.InferenceSession, name: str, width: int) -> None:
        self._name = name
        self._row, self._score = np.zeros((1, width), np.float32), np.zeros(1, np.float32)
        binding = session.io_binding()
        # These values only point to the arrays.
        binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(self._row))
        binding.bind_ortvalue_output(OUTPUT, ort.OrtValue.ortvalue_from_numpy(self._score))
        self._run = session._sess.run_with_iobinding
        self._free = [binding._iobinding]

    @classmethod
    def of(cls, session: ort.InferenceSession, signature: Signature) -> "_Single | None":
        """None when the model takes anything but one packed input."""
        packed = signature.packed
        return (
            cls(session, signature.packed_as, len(packed)) if packed and len(packed) == len(signature.inputs) else None
        )

    def score(self, feeds: Feeds) -> np.ndarray | None:
        """The score of one row; None for more rows, or while another thread is here."""
        row = feeds[self._name]
        if len(row) != 1:
            return None
        try:
            bound = self._free.pop()
        except IndexError:
            return None
        try:
            self._row[:] = row
            self._run(bound, None)
            return self._score.copy()
        finally:
            self._free.append(bound)


def open_model(data: bytes, signature: Signature, *, threads: int) -> Model:
    """Check, load and warm a model. Blocks, for seconds with a large one.

    Args:
        data: the ONNX file's bytes, already known to have the version's digest.
        signature: what the registry says the file takes.
        threads: intra-op threads; 1 keeps a run on the calling thread.

    Raises:
        Invalid: the file breaks the rules of `shared.onnx_check`, does not fit its signature, cannot be loaded, or does not give
            one finite score for each of the warm-up's rows.
    """
    model = check_model(data)
    _check_inputs(model.graph, signature)
    numbers = [given.name for given in signature.inputs if given.kind == "number"]
    if (packed := pack(model, numbers)) is not None:
        signature = replace(signature, packed_as=packed[0], packed=packed[1])
        data = model.SerializeToString()
    try:
        session = ort.InferenceSession(data, _options(threads), providers=["CPUExecutionProvider"])
    except Exception as error:
        raise Invalid(f"ONNX Runtime cannot load the model ({type(error).__name__}).") from error
    _check_output(session)
    for count in WARM_UP_ROWS:
        _warm(session, signature, count)
    return Model(
        session, signature, RunCost.measured(_timed(session, signature, 1), _timed(session, signature, MANY), MANY)
    )


def _timed(session: ort.InferenceSession, signature: Signature, count: int) -> float:
    """Seconds of one run over so many rows: the median of a few."""
    feeds = signature.feeds(_synthetic(signature, count))
    times = []
    for _ in range(TIMED_RUNS):
        began = time.perf_counter()
        session.run(_OUTPUTS, feeds)
        times.append(time.perf_counter() - began)
    return median(times)


def _options(threads: int) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    # Spinning burns a core after each run; arena and pattern grow with each batch size seen, and outlive the session.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.enable_cpu_mem_arena = False
    options.enable_mem_pattern = False
    options.log_severity_level = 3
    return options


def _check_inputs(graph: onnx.GraphProto, signature: Signature) -> None:
    constants = {tensor.name for tensor in graph.initializer}
    found = {given.name: given.type.tensor_type for given in graph.input if given.name not in constants}
    wanted = {given.name: given for given in signature.inputs}
    if found.keys() != wanted.keys():
        names = ", ".join(sorted(found.keys() ^ wanted.keys())[:5])
        raise Invalid(f"The model's inputs are not those of its signature: {names}.")
    for name, given in wanted.items():
        element, shape = found[name].elem_type, found[name].shape.dim
        rank = 2 if given.kind == "vector" else 1
        if element != _ELEMENT[given.kind] or len(shape) != rank or shape[0].HasField("dim_value"):
            kind = onnx.TensorProto.DataType.Name(element).lower()
            raise Invalid(
                f"The model's input {name} is a tensor of {kind} of rank {len(shape)}, which is not a {given.kind} of any "
                "number of rows."
            )
        if given.kind == "vector" and shape[1].dim_value != given.length:
            raise Invalid(
                f"The model's input {name} has length {shape[1].dim_value}; its signature says {given.length}."
            )


def _check_output(session: ort.InferenceSession) -> None:
    outputs = {given.name: given.type for given in session.get_outputs()}
    if outputs.get(OUTPUT) != "tensor(float)":
        raise Invalid(f"The model has no output {OUTPUT} of float32.")


def _warm(session: ort.InferenceSession, signature: Signature, count: int) -> None:
    try:
        scores = session.run(_OUTPUTS, signature.feeds(_synthetic(signature, count)))[0]
    except Exception as error:
        raise Invalid(f"The model fails on {count} rows of the warm-up ({type(error).__name__}).") from error
    if scores.dtype != np.float32 or scores.shape != (count,):
        raise Invalid(f"The model gives {scores.dtype} {list(scores.shape)} for {count} rows, not float32 [{count}].")
    if not np.isfinite(scores).all():
        raise Invalid("The model gives scores that are not finite on rows of the warm-up.")
    if signature.task == "binary" and not ((scores >= 0) & (scores <= 1)).all():
        raise Invalid("The model of a binary task gives scores outside of 0 and 1.")


def _synthetic(signature: Signature, count: int) -> Feeds:
    """Rows that any model of the signature must score: missing and present values, unknown categories, ordinary times."""
    rows = np.arange(count)
    feeds: Feeds = {}
    for given in signature.inputs:
        match given.kind:
            case "category":
                feeds[given.name] = np.array(["" if row % 2 else f"relevo-{row}" for row in rows], dtype=object)
            case "number":
                feeds[given.name] = np.where(rows % 2, np.nan, rows).astype(np.float32)
            case "timestamp":
                feeds[given.name] = _SYNTHETIC_TIME_US + rows * _HOUR_US
            case "vector":
                feeds[given.name] = np.zeros((count, given.length), dtype=np.float32)
    return feeds


_HOUR_US = np.int64(3_600_000_000)
_SYNTHETIC_TIME_US = np.int64(1_700_000_000_000_000)
