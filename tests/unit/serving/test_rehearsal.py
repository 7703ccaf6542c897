"""A version answers only after it scored what it must score: its golden vectors, and what others answered a moment ago."""

from dataclasses import replace

import numpy as np
import orjson
import pytest
import spox.opset.ai.onnx.v21 as op
from spox import Tensor, argument

from services.serving.models.loader import codec_for
from services.serving.models.model import Model, open_model, read_signature
from services.serving.models.recent import MOST_BODY_BYTES, RecentRequests, Sample
from services.serving.models.rehearsal import REPLAY_S, check_golden, replay
from services.serving.rows import RowCodec
from shared.errors import Invalid
from shared.golden import TOLERANCE, encode
from shared.spec import parse
from tests.unit.serving.tiny_model import SIGNATURE, SPEC, finish, tiny_golden, tiny_model

NOW_US = 1_900_000_000_000_000


def opened(data: bytes) -> tuple[Model, RowCodec]:
    model = open_model(data, read_signature(SIGNATURE), threads=1)
    return model, codec_for(parse(SPEC), parse(SPEC), model.signature)


def not_finite_at(distance: float) -> bytes:
    """0.5, but NaN at one distance."""
    inputs = {
        "carrier": argument(Tensor(np.str_, ("n",))),
        "distance": argument(Tensor(np.float32, ("n",))),
        "departs": argument(Tensor(np.int64, ("n",))),
    }
    half, nan = op.const(np.float32(0.5)), op.const(np.float32(np.nan))
    bad = op.equal(inputs["distance"], op.const(np.float32(distance)))
    used = op.and_(
        op.equal(inputs["carrier"], op.const(np.array("?"))), op.greater(inputs["departs"], op.const(np.int64(2**62)))
    )
    return finish(inputs, op.where(op.or_(bad, used), nan, half))


def fails_at(distance: float) -> bytes:
    """0.5, but an index that no table has at one distance."""
    inputs = {
        "carrier": argument(Tensor(np.str_, ("n",))),
        "distance": argument(Tensor(np.float32, ("n",))),
        "departs": argument(Tensor(np.int64, ("n",))),
    }
    bad = op.cast(op.equal(inputs["distance"], op.const(np.float32(distance))), to=np.int64)
    unused = op.cast(op.equal(inputs["carrier"], op.const(np.array("?"))), to=np.int64)
    later = op.cast(op.greater(inputs["departs"], op.const(np.int64(2**62))), to=np.int64)
    table = op.const(np.full(1, 0.5, np.float32))
    return finish(inputs, op.gather(table, op.add(bad, op.mul(unused, later))))


def request(*rows: dict[str, object], **fields: object) -> bytes:
    instances = [
        {"flight": f"AA-{index}", "departs": "2013-06-02T12:00:00-04:00", **row} for index, row in enumerate(rows)
    ]
    return orjson.dumps({"instances": instances, **fields})


def replayed(data: bytes, *requests: bytes) -> int:
    return replay(*opened(data), requests, now_us=NOW_US, max_instances=100)


def test_the_version_that_was_trained_passes() -> None:
    check_golden(*opened(tiny_model(0.25, weight=0.5)), encode(tiny_golden(0.25, weight=0.5)))


@pytest.mark.parametrize("change", [{"base": 0.25 + 3 * TOLERANCE}, {"base": 0.25, "weight": 0.5 + 0.01}])
def test_another_model_is_refused_with_the_row_and_how_far_it_is_off(change: dict[str, float]) -> None:
    model, codec = opened(tiny_model(**change) if "weight" in change else tiny_model(change["base"], weight=0.5))
    with pytest.raises(Invalid, match=r"row \d of its golden vectors scores .*, where training gave .*: off by"):
        check_golden(model, codec, encode(tiny_golden(0.25, weight=0.5)))


def test_golden_rows_that_are_no_instances_are_refused() -> None:
    golden = tiny_golden(0.25)
    with pytest.raises(Invalid, match="do not fit its spec"):
        check_golden(
            *opened(tiny_model(0.25)), encode(replace(golden, rows=[{**row, "gate": 4} for row in golden.rows]))
        )


def test_recorded_requests_are_scored_and_those_of_another_spec_passed_over() -> None:
    scored = replayed(
        tiny_model(0.25),
        request({"carrier": "AA"}, {"distance": 3}, model="delays"),
        request({"carrier": ""}),
        request({"gate": "B4"}),
        request({}),
        b"no json",
    )
    assert scored == 3


def test_a_model_that_gives_no_finite_score_for_what_was_answered_is_refused() -> None:
    data = not_finite_at(512)
    assert replayed(data, request({"distance": 511})) == 1
    with pytest.raises(Invalid, match="not finite for a request that was answered lately"):
        replayed(data, request({"distance": 511}, {"distance": 512}))


def test_a_model_that_fails_on_what_was_answered_is_refused() -> None:
    data = fails_at(512)
    assert replayed(data, request({"distance": 511})) == 1
    with pytest.raises(Invalid, match="fails on a request that was answered lately"):
        replayed(data, request({"distance": 512}))


def test_replaying_ends_in_time() -> None:
    times = iter([0.0, 1.0, REPLAY_S])
    model, codec = opened(tiny_model(0.25))
    requests = [request({})] * 3
    assert replay(model, codec, requests, now_us=NOW_US, max_instances=100, clock=lambda: next(times)) == 1


def test_the_sample_is_bounded() -> None:
    sample = Sample(3)
    for number in range(5):
        sample.keep(b"%d" % number)
    sample.keep(b"x" * (MOST_BODY_BYTES + 1))
    assert sample.newest() == [b"4", b"3", b"2"]


def test_none_are_kept_where_none_are_wanted() -> None:
    recent = RecentRequests(0)
    assert recent.of("delays").due_s == float("inf")
    assert recent.of("delays") is recent.of("delays")
