"""Tensors come as they were sent, as bytes or JSON, or not at all."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from services.serving.oip.tensors import DTYPES, bytes_of_texts, from_bytes, from_json, text_of
from shared.errors import Invalid

SHAPES = st.one_of(st.tuples(st.integers(1, 5)), st.tuples(st.integers(1, 4), st.integers(1, 3)))
TEXTS = st.lists(st.text(st.characters(codec="utf-8"), max_size=8), min_size=1, max_size=5)


@given(st.data(), st.sampled_from(sorted(DTYPES)), SHAPES, st.binary(max_size=3))
def test_numbers_are_read_as_they_were_sent(
    data: st.DataObject, datatype: str, shape: tuple[int, ...], before: bytes
) -> None:
    sent = data.draw(arrays.arrays(DTYPES[datatype], shape))
    body = before + sent.tobytes() + b"behind"
    read = from_bytes("x", datatype, shape, body, begin=len(before), size=sent.nbytes)
    assert read.values.dtype == sent.dtype
    np.testing.assert_array_equal(read.values, sent)
    assert not read.values.flags.owndata, "the numbers lie in the body still"
    plain = [None if value != value else value for value in sent.ravel().tolist()]
    nested = sent.astype(object)
    nested[sent != sent] = None
    if datatype == "FP16":
        with pytest.raises(Invalid, match="no JSON form"):
            from_json("x", datatype, shape, plain)
    else:
        for form in (plain, nested.tolist()):
            np.testing.assert_array_equal(from_json("x", datatype, shape, form).values, sent)


@given(TEXTS, st.binary(max_size=3))
def test_texts_are_read_as_they_were_sent(texts: list[str], before: bytes) -> None:
    data = bytes_of_texts(texts)
    read = from_bytes("x", "BYTES", (len(texts),), before + data, begin=len(before), size=len(data))
    assert read.values == from_json("x", "BYTES", (len(texts), 1), texts).values == texts


@given(st.binary(max_size=40), st.integers(1, 6), st.booleans())
def test_any_bytes_are_exactly_the_texts_that_they_frame_or_none(data: bytes, count: int, grow: bool) -> None:
    if grow:  # a plausible first length
        data = bytes([len(data) % 5, 0, 0, 0]) + data
    try:
        read = from_bytes("x", "BYTES", (count,), data, begin=0, size=len(data))
    except Invalid:
        return
    assert bytes_of_texts(read.values) == data
    assert len(read.values) == count


@given(st.sampled_from(sorted(DTYPES)), SHAPES, st.integers(0, 200))
def test_another_number_of_bytes_is_refused(datatype: str, shape: tuple[int, ...], size: int) -> None:
    fits = size == math.prod(shape) * DTYPES[datatype].itemsize
    try:
        from_bytes("x", datatype, shape, b"\0" * size, begin=0, size=size)
    except Invalid:
        assert not fits
    else:
        assert fits


BAD: dict[str, tuple[str, tuple[int, ...], Any, str]] = {
    "no list": ("FP32", (1,), 1.5, "needs `data`"),
    "none": ("FP32", (1,), None, "binary_data_size"),
    "too few": ("FP32", (3,), [1, 2], "has 2 values"),
    "too many": ("FP32", (2, 2), [1, 2, 3, 4, 5], "has 5 values"),
    "ragged": ("FP32", (2, 2), [[1, 2], [3]], "not of its shape"),
    "half nested": ("FP32", (2, 2), [[1, 2], 3, 4], "not of its shape"),
    "nested too deep": ("FP32", (2,), [[1], [2]], "must be numbers"),
    "a text as a number": ("FP32", (1,), ["1"], "must be numbers"),
    "true as a number": ("FP32", (1,), [True], "must be numbers"),
    "a fraction as a whole number": ("INT64", (1,), [1.0], "whole numbers"),
    "null as a whole number": ("INT64", (1,), [None], "whole numbers"),
    "a whole number as truth": ("BOOL", (1,), [1], "true or false"),
    "a number as a text": ("BYTES", (1,), [1], "must be texts"),
    "beyond INT8": ("INT8", (1,), [128], "INT8 cannot hold"),
    "negative": ("UINT64", (1,), [-1], "UINT64 cannot hold"),
}


@pytest.mark.parametrize("what", BAD)
def test_data_of_another_kind_or_shape_is_refused(what: str) -> None:
    datatype, shape, data, said = BAD[what]
    with pytest.raises(Invalid, match=said):
        from_json("x", datatype, shape, data)


def test_bytes_that_are_no_value_are_refused() -> None:
    with pytest.raises(Invalid, match="0 or 1"):
        from_bytes("x", "BOOL", (2,), b"\1\2", begin=0, size=2)
    with pytest.raises(Invalid, match="not UTF-8"):
        from_bytes("x", "BYTES", (1,), b"\1\0\0\0\xff", begin=0, size=5)
    with pytest.raises(Invalid, match="not UTF-8"):
        text_of("x", b"\xed\xa0\x80")
    with pytest.raises(Invalid, match="framed as 1000000000000"):
        from_bytes("x", "BYTES", (10**12,), b"\0" * 8, begin=0, size=8)


@pytest.mark.parametrize(
    "data", [bytes_of_texts(["a"]) + b"x", bytes_of_texts(["a", "b"]), b"\2\0\0\0a", b"\xff\xff\xff\xffa", b"\1\0\0"]
)
def test_texts_that_end_before_or_behind_their_stretch_are_refused(data: bytes) -> None:
    for behind in (b"", b"next tensor"):
        with pytest.raises(Invalid, match="framed as 1 of BYTES"):
            from_bytes("x", "BYTES", (1,), data + behind, begin=0, size=len(data))
