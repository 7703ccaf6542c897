"""Inference requests and answers: a JSON object, and behind it the binary data of those tensors that have no data in it."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from services.serving.models.model import OUTPUT, Input, Signature
from services.serving.oip.tensors import (
    BYTES,
    DATATYPES,
    DTYPES,
    MAX_RANK,
    Tensor,
    bytes_of_texts,
    from_bytes,
    from_json,
    text_of,
    wrong,
)
from shared.errors import Invalid, Malformed
from shared.instances import shown_name
from shared.web.body import strict_json
from shared.web.raw import Reply

HEADER_LENGTH = b"inference-header-content-length"
PREDICTION_ID = "prediction_id"
OUTPUTS = {OUTPUT: "FP32", PREDICTION_ID: BYTES}
"""Datatypes of the outputs; each has the shape [rows]."""
DATATYPE_OF = {"category": BYTES, "number": "FP32", "timestamp": "INT64", "vector": "FP32"}
"""Datatype of a model's input by its kind."""
MAX_ID_CHARS = 256

_OCTETS = b"application/octet-stream"
_SCALARS = {str, int, float, bool}
_NO_PARAMETERS: Mapping[str, Any] = {}
_NOT_HERE = {
    "sequence_id": "no request belongs to a sequence here: each one stands alone",
    "shared_memory_region": "there is no shared memory here: send the data itself",
    "classification": "outputs are values, never ranked classes",
}
"""Parameters that change what an answer means: ignoring them would mislead. Others are hints."""


@dataclass(frozen=True, slots=True)
class InferRequest:
    """An inference request, read."""

    tensors: list[Tensor]
    outputs: Mapping[str, bool]
    """Outputs in the order asked for, and whether each is sent as binary data."""
    id: str | None = None


def read_request(body: bytes, header_length: bytes | None, signature: Signature) -> InferRequest:
    """Read a request in any of its forms.

    Args:
        header_length: the header `Inference-Header-Content-Length`, if sent: the length of the JSON; 0 for a body that is the
            single input's binary data.
        signature: the model's, for that last form.

    Raises:
        Malformed: the body is not JSON, or shorter than it says.
        Invalid: a field of it is wrong.
    """
    if header_length is None:
        begin = len(body)
    elif header_length.isdigit() and len(header_length) < 20 and int(header_length) <= len(body):
        begin = int(header_length)
    else:
        raise Malformed(
            f"Inference-Header-Content-Length must be the length of the JSON in bytes, at most that of the body ({len(body)})."
        )
    if header_length is not None and begin == 0:
        return InferRequest([_single(body, signature)], dict.fromkeys(OUTPUTS, True))
    document = _object("The request", strict_json(body[:begin]), {"id", "parameters", "inputs", "outputs"})
    named = document.get("id")
    if named is not None and not (type(named) is str and len(named) <= MAX_ID_CHARS):
        raise _invalid("id", f"must be a text of at most {MAX_ID_CHARS} characters")
    parameters = _parameters("parameters", document)
    binary = _flag("parameters", parameters, "binary_data_output", default=False)
    return InferRequest(_inputs(document, body, begin), _outputs(document, binary=binary), named)


def _inputs(document: Mapping[str, Any], body: bytes, at: int) -> list[Tensor]:
    given = document.get("inputs")
    if type(given) is not list or not given:
        raise _invalid("inputs", "must be a list of at least one tensor")
    tensors: dict[str, Tensor] = {}
    for index, entry in enumerate(given):
        where = f"inputs.{index}"
        _object(where, entry, {"name", "shape", "datatype", "parameters", "data"})
        name, datatype, shape = entry.get("name"), entry.get("datatype"), entry.get("shape")
        if type(name) is not str or not name:
            raise _invalid(f"{where}.name", "must be the name of an input")
        if name in tensors:
            raise wrong(name, "is given twice")
        if type(datatype) is not str or datatype not in DATATYPES:
            raise _invalid(f"{where}.datatype", f"must be one of {', '.join(sorted(DATATYPES))}")
        if (
            type(shape) is not list
            or not 1 <= len(shape) <= MAX_RANK
            or not all(type(n) is int and n > 0 for n in shape)
        ):
            raise _invalid(
                f"{where}.shape", "must be a list of one or two whole numbers from 1: the rows, and a vector's length"
            )
        size = _parameters(f"{where}.parameters", entry).get("binary_data_size")
        if size is None:
            tensors[name] = from_json(name, datatype, tuple(shape), entry.get("data"))
            continue
        if entry.get("data") is not None:
            raise wrong(name, "has `data` and binary_data_size; send one of them")
        if type(size) is not int or not 0 <= size <= len(body) - at:
            raise wrong(
                name,
                f"has a binary_data_size that is not a number of bytes within the {len(body) - at} left",
            )
        tensors[name] = from_bytes(name, datatype, tuple(shape), body, begin=at, size=size)
        at += size
    if at != len(body):
        raise Malformed(
            f"The body has {len(body) - at} bytes behind its last tensor; binary_data_size must add up to all."
        )
    return list(tensors.values())


def _outputs(document: Mapping[str, Any], *, binary: bool) -> dict[str, bool]:
    given = document.get("outputs")
    if given is None or given == []:
        return dict.fromkeys(OUTPUTS, binary)
    if type(given) is not list:
        raise _invalid("outputs", "must be a list of objects")
    wanted: dict[str, bool] = {}
    for index, entry in enumerate(given):
        where = f"outputs.{index}"
        name = _object(where, entry, {"name", "parameters"}).get("name")
        if type(name) is not str or name not in OUTPUTS or name in wanted:
            raise _invalid(f"{where}.name", f"must be one of {', '.join(OUTPUTS)}, each once")
        where += ".parameters"
        wanted[name] = _flag(where, _parameters(where, entry), "binary_data", default=binary)
    return wanted


def _single(body: bytes, signature: Signature) -> Tensor:
    if len(signature.inputs) != 1:
        raise Invalid(
            f"A body of binary data alone is for models with one input; this one takes {len(signature.inputs)}: send them by name."
        )
    given: Input = signature.inputs[0]
    datatype = DATATYPE_OF[given.kind]
    if datatype == BYTES:
        return Tensor(given.name, BYTES, (1,), [text_of(given.name, body)])
    shape = (1, given.length) if given.kind == "vector" else (1,)
    return from_bytes(given.name, datatype, shape, body, begin=0, size=len(body))


def _object(where: str, value: object, known: Collection[str]) -> Mapping[str, Any]:
    if type(value) is not dict:
        raise Invalid(f"{where} must be an object.", errors=[{"loc": ["body"], "msg": "must be an object"}])
    if unknown := value.keys() - known:
        raise _invalid(
            shown_name(min(map(str, unknown))), f"is no field here ({where}): there are {', '.join(sorted(known))}"
        )
    return value


def _parameters(where: str, holder: Mapping[str, Any]) -> Mapping[str, Any]:
    given = holder.get("parameters")
    if given is None:
        return _NO_PARAMETERS
    if type(given) is not dict or not _SCALARS.issuperset(map(type, given.values())):
        raise _invalid(where, "must be an object of texts, numbers, true and false")
    for name, why in _NOT_HERE.items():
        if given.get(name):
            raise _invalid(f"{where}.{name}", f"cannot be had: {why}")
    return given


def _flag(where: str, parameters: Mapping[str, Any], name: str, *, default: bool) -> bool:
    value = parameters.get(name, default)
    if type(value) is not bool:
        raise _invalid(f"{where}.{name}", "must be true or false")
    return value


def _invalid(where: str, what: str) -> Invalid:
    return Invalid(f"{where} {what}.", errors=[{"loc": ["body", *where.split(".")], "msg": what}])


def write_answer(model: str, version: int, request: InferRequest, ids: Sequence[str], scores: Sequence[float]) -> Reply:
    """The answer with the outputs asked for.

    Args:
        ids: prediction ids, one a row.
        scores: one a row.
    """
    described: list[dict[str, Any]] = []
    binary: list[bytes] = []
    for name, as_bytes in request.outputs.items():
        output: dict[str, Any] = {"name": name, "datatype": OUTPUTS[name], "shape": [len(ids)]}
        values = scores if name == OUTPUT else ids
        if as_bytes:
            data = np.array(scores, DTYPES["FP32"]).tobytes() if name == OUTPUT else bytes_of_texts(ids)
            output["parameters"] = {"binary_data_size": len(data)}
            binary.append(data)
        else:
            output["data"] = values
        described.append(output)
    answer: dict[str, Any] = {"model_name": model, "model_version": str(version)}
    if request.id is not None:
        answer["id"] = request.id
    head = msgspec.json.encode(answer | {"outputs": described})
    if not binary:
        return Reply(head)
    return Reply(b"".join([head, *binary]), _OCTETS, ((b"inference-header-content-length", b"%d" % len(head)),))
