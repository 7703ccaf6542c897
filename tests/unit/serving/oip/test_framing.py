"""A request in any form is read as it was meant; a damaged one is refused, whatever the damage."""

import json
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.serving.models.model import read_signature
from services.serving.oip.framing import InferRequest, read_request, write_answer
from services.serving.oip.tensors import bytes_of_texts
from shared.errors import Invalid, Malformed
from shared.web.raw import Reply
from tests.unit.serving.tiny_model import SIGNATURE
from tests.unit.serving.vector_model import vector_signature

SEVERAL = read_signature(SIGNATURE)
VECTOR = read_signature(vector_signature(2))
TEXT = {**SIGNATURE, "inputs": SIGNATURE["inputs"][:1]}
CARRIERS = bytes_of_texts(["AA", ""])
DISTANCES = np.array([1.5, np.nan], "<f4").tobytes()
HEAD: dict[str, Any] = {
    "id": "r-1",
    "inputs": [
        {"name": "carrier", "datatype": "BYTES", "shape": [2], "parameters": {"binary_data_size": len(CARRIERS)}},
        {"name": "departs", "datatype": "INT64", "shape": [2], "data": [1, 2]},
        {"name": "distance", "datatype": "FP32", "shape": [2], "parameters": {"binary_data_size": len(DISTANCES)}},
    ],
}


def framed(head: dict[str, Any], *binary: bytes) -> tuple[bytes, bytes]:
    text = json.dumps(head).encode()
    return b"".join([text, *binary]), b"%d" % len(text)


def refused(head: dict[str, Any], *binary: bytes) -> str:
    with pytest.raises((Invalid, Malformed)) as caught:
        read_request(*framed(head, *binary), SEVERAL)
    return caught.value.detail


def test_json_and_binary_tensors_may_be_mixed() -> None:
    request = read_request(*framed(HEAD, CARRIERS, DISTANCES), SEVERAL)
    carrier, departs, distance = request.tensors
    assert (carrier.values, departs.values.tolist()) == (["AA", ""], [1, 2])
    np.testing.assert_array_equal(distance.values, np.array([1.5, np.nan], np.float32))
    assert (request.id, request.outputs) == ("r-1", {"score": False, "prediction_id": False})


@pytest.mark.parametrize(
    ("parameters", "outputs", "wanted"),
    [
        ({}, None, {"score": False, "prediction_id": False}),
        ({"binary_data_output": True}, [], {"score": True, "prediction_id": True}),
        ({"binary_data_output": True, "priority": 1, "timeout": 5}, [{"name": "score"}], {"score": True}),
        (
            {"binary_data_output": True},
            [{"name": "prediction_id", "parameters": {"binary_data": False, "classification": 0}}, {"name": "score"}],
            {"prediction_id": False, "score": True},
        ),
        ({}, [{"name": "score", "parameters": {"binary_data": True}}], {"score": True}),
    ],
)
def test_outputs_come_as_asked(parameters: Any, outputs: Any, wanted: dict[str, bool]) -> None:
    request = read_request(
        *framed({**HEAD, "parameters": parameters, "outputs": outputs}, CARRIERS, DISTANCES), SEVERAL
    )
    assert list(request.outputs.items()) == list(wanted.items())


def test_a_body_may_be_the_single_input() -> None:
    (tensor,) = read_request(np.array([1, 2], "<f4").tobytes(), b"0", VECTOR).tensors
    assert (tensor.name, tensor.values.tolist()) == ("embedding", [[1, 2]])
    (text,) = read_request("é".encode(), b"0", read_signature(TEXT)).tensors
    assert (text.name, text.values, text.shape) == ("carrier", ["é"], (1,)), "a text needs no length of its own"
    with pytest.raises(Invalid, match="this one takes 3"):
        read_request(b"AA", b"0", SEVERAL)


def changed(index: int, **fields: Any) -> dict[str, Any]:
    inputs = [dict(entry) for entry in HEAD["inputs"]]
    inputs[index] |= fields
    return {**HEAD, "inputs": inputs}


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no inputs": ({"inputs": []}, "at least one tensor"),
    "input no object": ({"inputs": [7]}, "inputs.0 must be an object"),
    "unknown field": ({**HEAD, "input": []}, "input is no field here"),
    "unknown field of a tensor": (changed(0, dtype="BYTES"), "dtype is no field here"),
    "no name": (changed(0, name=""), "inputs.0.name"),
    "twice": (changed(1, name="carrier"), "given twice"),
    "BF16": (changed(2, datatype="BF16"), "must be one of BOOL, BYTES"),
    "lower case": (changed(2, datatype="fp32"), "must be one of"),
    "no shape": (changed(2, shape=None), "inputs.2.shape"),
    "empty shape": (changed(2, shape=[]), "inputs.2.shape"),
    "no rows": (changed(2, shape=[0]), "whole numbers from 1"),
    "negative": (changed(2, shape=[-2]), "whole numbers from 1"),
    "truth as shape": (changed(2, shape=[True, 2]), "whole numbers from 1"),
    "huge": (changed(2, shape=[2**62, 2**62]), "has 8 bytes where"),
    "three dimensions": (changed(2, shape=[1, 1, 2]), "one or two"),
    "size no number": (changed(2, parameters={"binary_data_size": "8"}), "not a number of bytes"),
    "size negative": (changed(2, parameters={"binary_data_size": -1}), "not a number of bytes"),
    "size beyond the body": (changed(2, parameters={"binary_data_size": 9}), "within the 8 left"),
    "size too small": (changed(2, shape=[1], parameters={"binary_data_size": 4}), "4 bytes behind its last tensor"),
    "size and data": (changed(2, data=[1, 2]), "send one of them"),
    "shared memory": (changed(2, parameters={"shared_memory_region": "r"}), "no shared memory"),
    "parameters no object": (changed(2, parameters=[]), "must be an object of texts"),
    "nested parameters": ({**HEAD, "parameters": {"a": {}}}, "must be an object of texts"),
    "a sequence": ({**HEAD, "parameters": {"sequence_id": 7}}, "stands alone"),
    "flag no truth": ({**HEAD, "parameters": {"binary_data_output": 1}}, "must be true or false"),
    "long id": ({**HEAD, "id": "x" * 257}, "at most 256"),
    "id a number": ({**HEAD, "id": 1}, "at most 256"),
    "outputs no list": ({**HEAD, "outputs": {}}, "must be a list"),
    "unknown output": ({**HEAD, "outputs": [{"name": "label"}]}, "must be one of score, prediction_id"),
    "output twice": ({**HEAD, "outputs": [{"name": "score"}] * 2}, "each once"),
    "classes": ({**HEAD, "outputs": [{"name": "score", "parameters": {"classification": 3}}]}, "never ranked"),
}


@pytest.mark.parametrize("what", BAD)
def test_what_is_wrong_is_named(what: str) -> None:
    head, said = BAD[what]
    assert said in refused(head, CARRIERS, DISTANCES)


@pytest.mark.parametrize("length", [b"", b"-1", b"1.5", b"x", b"9" * 30, b"100000", b"\xb2"])
def test_a_length_of_the_json_that_is_none_is_refused(length: bytes) -> None:
    with pytest.raises(Malformed, match="Inference-Header-Content-Length"):
        read_request(b"{}", length, SEVERAL)


@given(st.data())
def test_damage_is_refused_or_harmless(data: st.DataObject) -> None:
    """Whatever is flipped, cut or inserted: a request or a refusal, and nothing else."""
    body, length = framed(HEAD, CARRIERS, DISTANCES)
    found = bytearray(body)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(found)))
        found[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=5))
    given_length = data.draw(st.sampled_from([length, None, b"0", b"%d" % (len(found) // 2)]))
    signature = data.draw(st.sampled_from([SEVERAL, VECTOR]))
    try:
        request = read_request(bytes(found), given_length, signature)
    except (Invalid, Malformed):
        return
    assert request.tensors


def parsed(reply: Reply) -> tuple[dict[str, Any], bytes]:
    length = int(dict(reply.headers).get(b"inference-header-content-length", len(reply.body)))
    return msgspec.json.decode(reply.body[:length]), reply.body[length:]


def test_an_answer_is_framed_as_it_was_asked() -> None:
    ids, scores = ["a" * 54, "b" * 54], [0.25, 0.5]
    plain = write_answer("delays", 3, InferRequest([], {"score": False, "prediction_id": False}), ids, scores)
    assert (plain.content_type, plain.headers) == (b"application/json", ())
    assert parsed(plain)[0] == {
        "model_name": "delays", "model_version": "3", "outputs": [
            {"name": "score", "datatype": "FP32", "shape": [2], "data": scores},
            {"name": "prediction_id", "datatype": "BYTES", "shape": [2], "data": ids},
        ],
    }  # fmt: skip
    head, data = parsed(
        write_answer("delays", 3, InferRequest([], {"prediction_id": True, "score": True}, "r"), ids, scores)
    )
    assert head["id"] == "r"
    sizes = [output["parameters"]["binary_data_size"] for output in head["outputs"]]
    assert sizes == [2 * 58, 8]
    assert data == bytes_of_texts(ids) + np.array(scores, "<f4").tobytes()
