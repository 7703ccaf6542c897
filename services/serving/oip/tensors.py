"""Tensors of the Open Inference Protocol, as JSON lists and as bytes: numbers become numpy arrays at once, without a look at each.

Bytes are little-endian, row-major and unpadded; an element of BYTES is its length (uint32) and UTF-8 text. Protocol:
kserve/open-inference-protocol (`inference_rest.md`) and Triton's binary tensor data extension.
"""

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from shared.errors import FieldError, Invalid
from shared.instances import shown_name

BYTES = "BYTES"
DTYPES = {
    "BOOL": np.dtype("?"),
    "UINT8": np.dtype("u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}
"""The datatypes that numpy holds; the protocol's other one is BYTES."""
DATATYPES = frozenset({*DTYPES, BYTES})
MAX_RANK = 2

_LENGTH = struct.Struct("<I")
_TEXT_KINDS = {str, type(None)}
_KINDS: dict[str, set[type]] = {"b": {bool}, "u": {int}, "i": {int}, "f": {float, int, type(None)}}
"""Types of JSON values by numpy's kind."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """One input as it was sent."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    """One or two dimensions, each at least 1; the first one counts the rows."""
    values: Any
    """A numpy array of the shape; of BYTES a flat list of texts, None where JSON has null."""

    @property
    def numbers(self) -> bool:
        """Whether it holds integers or floats."""
        return self.datatype not in (BYTES, "BOOL")


def wrong(name: str, what: str) -> Invalid:
    """The error that names an input."""
    shown = shown_name(name)
    error: FieldError = {"loc": ["body", "inputs", shown], "msg": what}
    return Invalid(f"The input {shown} {what}.", errors=[error])


def from_json(name: str, datatype: str, shape: tuple[int, ...], data: object) -> Tensor:
    """A tensor of a JSON list, nested as the shape or flat. In floats null is NaN.

    Raises:
        Invalid: the data is not of the datatype and shape.
    """
    if datatype == "FP16":
        raise wrong(name, "is FP16, which has no JSON form; send it as FP32, or as binary data")
    if type(data) is not list:
        raise wrong(name, "needs `data`, a list of values, or the parameter binary_data_size")
    flat = _flat(name, shape, data)
    kinds = set(map(type, flat))
    if datatype == BYTES:
        if not kinds <= _TEXT_KINDS:
            raise wrong(name, "is BYTES: its data must be texts")
        return Tensor(name, datatype, shape, flat)
    dtype = DTYPES[datatype]
    if not kinds <= _KINDS[dtype.kind]:
        has = {"b": "true or false", "f": "numbers, or null where one is missing"}.get(dtype.kind, "whole numbers")
        raise wrong(name, f"is {datatype}: its data must be {has}")
    try:
        with np.errstate(over="ignore"):  # what the datatype cannot hold becomes infinite, which is refused
            return Tensor(name, datatype, shape, np.array(flat, dtype).reshape(shape))
    except OverflowError:
        raise wrong(name, f"holds a number that {datatype} cannot hold") from None


def _flat(name: str, shape: tuple[int, ...], data: list[Any]) -> list[Any]:
    for size in shape[1:]:
        if type(data[0] if data else None) is not list:
            break
        if not all(type(part) is list and len(part) == size for part in data):
            raise wrong(name, f"has data that is not of its shape {list(shape)}")
        data = list(chain.from_iterable(data))
    if len(data) != math.prod(shape):
        raise wrong(name, f"has {len(data)} values where its shape {list(shape)} means {math.prod(shape)}")
    return data


def from_bytes(name: str, datatype: str, shape: tuple[int, ...], body: bytes, *, begin: int, size: int) -> Tensor:
    """A tensor of a stretch of the body, which numbers go on lying in: nothing is copied.

    Args:
        begin: where the stretch begins.
        size: its length, bytes; it lies within the body.

    Raises:
        Invalid: the stretch is not of the datatype and shape.
    """
    count = math.prod(shape)
    if datatype == BYTES:
        return Tensor(name, datatype, shape, _texts(name, count, body, begin, begin + size))
    dtype = DTYPES[datatype]
    if size != count * dtype.itemsize:
        raise wrong(
            name, f"has {size} bytes where its shape {list(shape)} of {datatype} means {count * dtype.itemsize}"
        )
    if datatype == "BOOL" and max(body[begin : begin + size]) > 1:
        raise wrong(name, "is BOOL: its bytes must be 0 or 1")
    return Tensor(name, datatype, shape, np.frombuffer(body, dtype, count, begin).reshape(shape))


def _texts(name: str, count: int, body: bytes, at: int, end: int) -> list[str]:
    texts: list[str] = []
    if count * _LENGTH.size <= end - at:
        for _ in range(count):
            begin = at + _LENGTH.size
            if begin > end:
                break
            at = begin + _LENGTH.unpack_from(body, at)[0]
            if at > end:
                break
            texts.append(text_of(name, body[begin:at]))
    if len(texts) != count or at != end:
        raise wrong(
            name, f"is not framed as {count} of BYTES: each one is its length (4 bytes, little-endian) and its text"
        )
    return texts


def text_of(name: str, data: bytes) -> str:
    """One element of BYTES.

    Raises:
        Invalid: it is not UTF-8.
    """
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise wrong(name, "is BYTES that are not UTF-8; send texts") from None


def bytes_of_texts(texts: Sequence[str]) -> bytes:
    """A BYTES tensor as binary data."""
    encoded = [text.encode() for text in texts]
    return b"".join(chain.from_iterable((_LENGTH.pack(len(data)), data) for data in encoded))
