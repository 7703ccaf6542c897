"""The generated decoder takes only what the careful reading takes, and reads it the same."""

import math
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.serving.instances import read_envelope
from services.serving.models.loader import codec_for
from services.serving.models.model import read_signature
from services.serving.rows import RowCodec, to_json
from shared.errors import RelevoError
from shared.instances import epoch_us, from_epoch_us
from shared.spec import parse
from shared.web.body import strict_json

AT = datetime(2013, 6, 2, 16, tzinfo=UTC)
SPEC: dict[str, Any] = {
    "name": "trips",
    "task": "regression",
    "key": "trip",
    "time": "starts",
    "entity": "driver",
    "columns": ["note"],
    "features": {
        "zone": {"type": "category", "vocabulary": 8},
        "class": {"type": "category", "vocabulary": 8, "required": True},
        "distance": {"type": "number"},
        "fare": {"type": "number", "required": True},
        "booked": {"type": "timestamp", "calendar": ["hour"]},
        "starts": {"type": "timestamp", "calendar": ["hour"]},
        "where": {"type": "vector", "length": 2},
    },
    "label": {"name": "minutes"},
    "dataset": {"window": "30d", "test": "7d"},
}
SIGNATURE = {
    "inputs": [
        {"name": "zone", "kind": "category"},
        {"name": "class", "kind": "category"},
        {"name": "distance", "kind": "number"},
        {"name": "fare", "kind": "number"},
        {"name": "booked", "kind": "timestamp"},
        {"name": "starts", "kind": "timestamp"},
        {"name": "where", "kind": "vector", "length": 2},
    ],
    "output": "score",
    "task": "regression",
}
GOOD = {
    "trip": "t-1", "starts": "2013-06-02T18:00:00+02:00", "class": "van", "fare": 12.5, "booked": 1_370_000_000_000_000,
    "where": [1, 2.5],
}  # fmt: skip


def codec(**changes: Any) -> RowCodec:
    spec = parse({**SPEC, **changes})
    return codec_for(spec, spec, read_signature(SIGNATURE))


TRIPS = codec()


def decoded(body: bytes, max_instances: int = 10) -> Any:
    return TRIPS.decode(body, epoch_us(AT), max_instances=max_instances, names_model=True)


def carefully(body: bytes) -> Any:
    asked = read_envelope(strict_json(body), max_instances=10, names_model=True)
    return TRIPS.read(asked.instances, AT), asked.model, asked.version


def body_of(*instances: Any, **fields: Any) -> bytes:
    return orjson.dumps({"instances": list(instances), **fields})


MOMENTS = st.one_of(
    st.integers(-25 * 10**14, 45 * 10**14).map(lambda at_us: str(from_epoch_us(at_us))),  # the years 1890 to 2112
    st.sampled_from(["2013-06-02T16:00:00Z", "2013-06-02 16:00:00.1234567Z", "2013-06-02T16:00:00", "2013-W22-7T16:00Z", "soon"]),
    st.integers(-(2**62), 2**62),
    st.integers(epoch_us(AT) - 10**9, epoch_us(AT) + 10**9),
)  # fmt: skip
NUMBERS = st.one_of(st.floats(allow_nan=False, allow_infinity=False), st.integers(-(2**63), 2**64 - 1), st.just(-0.0))
VALUES = st.one_of(
    st.none(), st.booleans(), NUMBERS, st.text(max_size=6), MOMENTS, st.lists(NUMBERS, max_size=3), st.just({})
)
FIELDS: dict[str, Any] = {
    "trip": st.text(min_size=1, max_size=5),
    "starts": MOMENTS,
    "class": st.text(max_size=3),
    "fare": NUMBERS,
    "booked": MOMENTS,
    "where": st.lists(NUMBERS, min_size=2, max_size=2),
    "zone": st.text(max_size=3),
    "distance": NUMBERS,
    "note": VALUES,
    "driver": VALUES,
    "available_at": MOMENTS,
    "other": VALUES,
}


@given(st.data())
def test_what_is_decoded_is_what_is_read_carefully(data: st.DataObject) -> None:
    names = data.draw(st.sets(st.sampled_from(sorted(FIELDS)), min_size=1))
    instance: dict[str, Any] = {**GOOD, **{name: data.draw(st.one_of(FIELDS[name], VALUES)) for name in names}}
    for name in data.draw(st.sets(st.sampled_from(sorted(GOOD)), max_size=1)):
        del instance[name]
    body = body_of(
        instance, GOOD, **data.draw(st.sampled_from([{}, {"model": "trips"}, {"version": 3}, {"version": 0}, {"x": 1}]))
    )
    fast = decoded(body)
    if fast is None:
        return
    rows, model, version = carefully(body)
    assert (fast.model, fast.version) == (model, version)
    # PostgreSQL's numbers know no -0.0, and neither does a comparison here.
    for row in fast.rows:
        row.available_at = epoch_us(AT) if row.available_at is None else row.available_at
    assert orjson.loads(to_json(fast.rows)) == orjson.loads(to_json(rows))
    for name, tensor in TRIPS.feeds([fast.rows]).items():
        np.testing.assert_array_equal(tensor, TRIPS.feeds([rows])[name])


def test_a_good_request_is_decoded() -> None:
    asked = decoded(
        body_of(GOOD, {**GOOD, "distance": 3, "zone": "north", "note": True, "driver": None}, model="trips")
    )
    assert (len(asked.rows), asked.model, asked.version) == (2, "trips", None)
    assert [row.key for row in asked.rows] == ["t-1", "t-1"]
    assert {row.time for row in asked.rows} == {epoch_us(AT)}
    assert {row.available_at for row in asked.rows} == {None}, "when it was received"
    assert not asked.as_sent, "a timestamp beside the event time is logged as a number"


def test_a_request_is_logged_as_it_was_sent_only_when_it_says_what_was_read() -> None:
    features = {name: feature for name, feature in SPEC["features"].items() if name not in ("booked", "where")}
    inputs = [given for given in SIGNATURE["inputs"] if given["name"] in features]  # type: ignore[index]
    spec = parse({**SPEC, "features": features})
    plain = codec_for(spec, spec, read_signature({**SIGNATURE, "inputs": inputs}))
    instance = {name: value for name, value in GOOD.items() if name not in ("booked", "where")}

    def asked(**fields: Any) -> Any:
        return plain.decode(body_of({**instance, **fields}), epoch_us(AT), max_instances=1, names_model=True)

    assert asked().as_sent
    assert asked(zone=None).as_sent
    assert asked(zone="") is None, "an empty text is a missing value: it must not be logged as one that is there"


WRONG = [
    b"", b"{", b"[]", b'{"instances": []}', b'{"instances": [1]}', b'{"instances": [{}]}',
    body_of({**GOOD, "trip": ""}), body_of({**GOOD, "trip": 3}), body_of({**GOOD, "fare": "12"}), body_of({**GOOD, "fare": None}),
    body_of({**GOOD, "fare": True}), body_of(GOOD).replace(b"12.5", b"1e999"), body_of(GOOD).replace(b"12.5", b"NaN"),
    body_of({**GOOD, "where": [1]}), body_of({**GOOD, "where": [1, None]}), body_of({**GOOD, "starts": 1.0}),
    body_of({**GOOD, "starts": "2013-06-02T16:00:00"}), body_of({**GOOD, "starts": 2**62}),
    body_of({**GOOD, "available_at": epoch_us(AT + timedelta(minutes=6))}), body_of({**GOOD, "nonsense": 1}),
    body_of({**GOOD, "note": "a\0b"}), body_of({**GOOD, "zone": "x" * 4097}), body_of({**GOOD, "class": ""}),
    body_of(GOOD, version=0), body_of(GOOD, version=2**31), body_of(GOOD, model=7), body_of(GOOD, rows=1),
    body_of(GOOD).replace(b"van", b"\\ud800"), body_of(GOOD).replace(b"van", b"\xff"), body_of(*[GOOD] * 11),
    body_of({**GOOD, "note": [[[]]]}), b'{"instances":' * 3000,
]  # fmt: skip


@pytest.mark.parametrize("body", WRONG, ids=range(len(WRONG)))
def test_whatever_is_wrong_is_left_to_the_careful_reading_which_refuses_it(body: bytes) -> None:
    assert decoded(body) is None
    with pytest.raises(RelevoError):
        carefully(body)


def test_rows_become_tensors() -> None:
    rows = [
        *decoded(body_of({**GOOD, "zone": "north", "distance": 1e300})).rows,
        *decoded(body_of(GOOD)).rows,
    ]
    feeds = TRIPS.feeds([rows[:1], rows[1:]])
    assert feeds["zone"].tolist() == ["north", ""]
    assert feeds["class"].tolist() == ["van", "van"]
    assert feeds["distance"].dtype == feeds["where"].dtype == np.float32
    assert feeds["distance"][0] == math.inf, "the graph clamps what float32 cannot hold"
    assert math.isnan(feeds["distance"][1])
    assert feeds["starts"].tolist() == [epoch_us(AT)] * 2
    assert feeds["booked"].dtype == np.int64
    assert feeds["where"].tolist() == [[1.0, 2.5]] * 2


def test_fields_named_like_the_decoder_s_own() -> None:
    spec = parse(
        {
            **SPEC,
            "key": "time",
            "time": "key",
            "entity": "f0",
            "columns": ["class"],
            "features": {"c1": {"type": "number"}, "available": {"type": "number"}},
        }
    )
    inputs = [{"name": "c1", "kind": "number"}, {"name": "available", "kind": "number"}]
    own = codec_for(spec, spec, read_signature({**SIGNATURE, "inputs": inputs}))
    body = body_of({"time": "t-1", "key": epoch_us(AT), "f0": "d", "class": "van", "c1": 1, "available": 2})
    (row,) = own.decode(body, epoch_us(AT), max_instances=1, names_model=True).rows  # type: ignore[union-attr]
    assert (row.key, row.time) == ("t-1", epoch_us(AT))
    assert own.feeds([[row]])["available"].tolist() == [2.0]
    logged = orjson.loads(to_json([row]))[0]
    assert {name: logged[name] for name in logged if name not in own.not_logged} == {
        "f0": "d", "class": "van", "c1": 1.0, "available": 2.0,
    }  # fmt: skip
