"""What becomes an example: as served before as ingested, known at as_of, old enough, with the label that counts."""

import io
import itertools
from typing import Any

import pyarrow.parquet as pq
import pytest

from shared.ids import new_id
from shared.prediction_ids import PredictionIds
from tests.conftest import PREDICTION_SECRET
from tests.integration.data.conftest import Service
from tests.integration.data.predictions import log_predictions
from tests.unit.data.samples import SPEC, at, event, iso, labelled, labelled_month

TEST_DAY = 27
"""In the test window of a dataset as of day 31: [25, 30)."""


@pytest.fixture
def month(trips: Service) -> Service:
    """Thirty days of labelled events, so that every window has rows."""
    trips.events(labelled_month())
    return trips


def split(service: Service, name: str = "test", **body: Any) -> dict[str, dict[str, Any]]:
    """The rows of a new dataset's split, by key."""
    dataset = service.dataset(**{"as_of": iso(31), **body})
    assert dataset["state"] == "ready", dataset["reason"]
    answer = service.client.get(f"/v1/pipelines/trips/datasets/{dataset['number']}/splits/{name}")
    return {row["key"]: row for row in pq.read_table(io.BytesIO(answer.content)).to_pylist()}


def test_features_as_served_beat_features_as_ingested_and_the_earliest_counts(month: Service) -> None:
    key = "t0108"
    pipeline = month.pipeline_id()
    ingested = event(108, TEST_DAY, available_at=None)
    # What was asked later is logged first: the moment in the world counts.
    log_predictions(month.sessions, pipeline, [{**ingested, "distance": 3000}], at(TEST_DAY + 0.3))
    log_predictions(month.sessions, pipeline, [{**ingested, "distance": 1000}], at(TEST_DAY), pinned=True)
    earliest = {**ingested, "distance": 2000, "available_at": iso(TEST_DAY + 0.1)}
    log_predictions(month.sessions, pipeline, [{**event(500, 1), "distance": 1}, earliest], at(TEST_DAY + 0.4))

    rows = split(month)
    assert rows[key]["distance"] == 2000
    assert rows["t0109"]["distance"] == 109 / 4


def test_predictions_without_events_are_examples_through_their_feedback(month: Service) -> None:
    pipeline = month.pipeline_id()
    served = [event(600 + number, TEST_DAY, available_at=iso(TEST_DAY)) for number in range(3)]
    request = log_predictions(month.sessions, pipeline, served, at(TEST_DAY))
    pinned = log_predictions(month.sessions, pipeline, [event(700, TEST_DAY)], at(TEST_DAY), pinned=True)
    ids = PredictionIds(PREDICTION_SECRET)
    month.labels(
        [
            {"prediction_id": ids.make("trips", request, 1), "label": 1, "time": iso(28), "available_at": iso(28)},
            {"key": "t0602", "label": 0, "time": iso(28), "available_at": iso(28)},
            {"prediction_id": ids.make("trips", pinned, 0), "label": 1, "time": iso(28), "available_at": iso(28)},
        ]
    )
    rows = split(month)

    assert "t0600" not in rows
    assert (rows["t0601"]["label"], rows["t0602"]["label"]) == (1.0, 0.0)
    assert "t0700" not in rows


def test_feedback_on_a_pinned_prediction_is_truth_about_its_example(month: Service) -> None:
    month.events([event(800, TEST_DAY)])
    pinned = log_predictions(month.sessions, month.pipeline_id(), [event(800, TEST_DAY)], at(TEST_DAY), pinned=True)
    prediction_id = PredictionIds(PREDICTION_SECRET).make("trips", pinned, 0)
    month.labels([{"prediction_id": prediction_id, "label": 1, "time": iso(28), "available_at": iso(28)}])
    assert split(month)["t0800"]["label"] == 1.0


def test_feedback_on_a_prediction_of_another_time_is_truth_about_its_key(month: Service) -> None:
    """The example lies in the window; the prediction that the feedback names was asked for a time far outside of it."""
    month.events([event(800, TEST_DAY)])
    moved = log_predictions(month.sessions, month.pipeline_id(), [event(801, 1), event(800, 1)], at(1))
    prediction_id = PredictionIds(PREDICTION_SECRET).make("trips", moved, 1)
    month.labels([{"prediction_id": prediction_id, "label": 1, "time": iso(28), "available_at": iso(28)}])
    assert split(month)["t0800"]["label"] == 1.0


def test_a_request_whose_rows_lie_far_apart_is_found_by_each(month: Service) -> None:
    rows = [event(800, 1), event(801, TEST_DAY, distance=1), event(802, 200)]
    log_predictions(month.sessions, month.pipeline_id(), rows, at(300))
    words = [{"key": f"t080{number}", "label": 1, "time": iso(28), "available_at": iso(28)} for number in range(3)]
    month.labels(words)
    assert {key for key in split(month) if key.startswith("t08")} == {"t0801"}


def test_feedback_that_came_before_its_prediction_was_logged_counts_from_then_on(month: Service) -> None:
    pipeline, ids = month.pipeline_id(), PredictionIds(PREDICTION_SECRET)
    month.events([event(800 + number, TEST_DAY) for number in range(2)])
    early, late = new_id(at(TEST_DAY)), new_id(at(TEST_DAY))
    for request in (early, late):
        word = {"label": 1, "time": iso(28), "available_at": iso(28)}
        month.labels([{"prediction_id": ids.make("trips", request, 0), **word}])
    found = []
    for number, request in enumerate((early, late)):
        log_predictions(month.sessions, pipeline, [event(800 + number, TEST_DAY)], at(TEST_DAY), request_id=request)
        found.append({key for key in split(month) if key.startswith("t08")})
    assert found == [{"t0800"}, {"t0800", "t0801"}]
    # What was not known then is not known to a rebuild.
    for dataset in (1, 2):
        assert month.post(f"/pipelines/trips/datasets/{dataset}/verify", None)["same"]


def test_cuts_at_as_of(month: Service) -> None:
    cases = {
        "old enough": (labelled(900, 29.9), True),
        "too young: its label may still change": (labelled(901, 30.1), False),
        "known late": (labelled(902, 29.9, available_at=iso(30.9)), True),
        "not known yet": (labelled(903, 29.9, available_at=iso(31.1)), False),
        "its label not known yet": (event(904, 29.9, late=1, label_time=iso(31.1)), False),
        "no label": (event(905, 29.9), False),
        "in the gap": (labelled(906, 24.5), False),
        "at the start of the window": (labelled(907, 25), True),
        "at its end": (labelled(908, 30), False),
    }
    assert month.events([row for row, _ in cases.values()])["accepted"] == len(cases)

    test = split(month)
    train = split(month, "train")

    assert {case: row["trip"] in test for case, (row, _) in cases.items()} == {
        case: there for case, (_, there) in cases.items()
    }
    assert not {row["trip"] for row, _ in cases.values()} & set(train)


def test_the_effective_label_does_not_depend_on_the_order_of_arrival(month: Service) -> None:
    words: list[dict[str, Any]] = [
        {"label": 1, "time": iso(27), "available_at": iso(27)},
        {"label": 0, "time": iso(28), "available_at": iso(28)},
        {"label": 1, "time": iso(29.5), "available_at": iso(29.5), "source": "implicit"},
    ]
    keys = [f"t{910 + number:04d}" for number in range(6)]
    month.events([event(910 + number, 28, late=1, label_time=iso(29)) for number in range(6)])
    for key, order in zip(keys, itertools.permutations(words), strict=True):
        for word in order:
            month.labels([{"key": key, **word}])
    # A correction that became known after as_of.
    month.labels([{"key": key, "label": 1, "time": iso(32), "available_at": iso(32)} for key in keys])

    now, later = split(month), split(month, as_of=iso(33))
    assert {now[key]["label"] for key in keys} == {0.0}
    assert {later[key]["label"] for key in keys} == {1.0}


def test_without_a_label_an_example_may_count_as_negative(service: Service) -> None:
    spec = {**SPEC, "label": {"name": "late", "mature_after": "1d", "if_missing": "negative"}}
    service.post("/pipelines", spec, 201)
    service.events([event(number, number / 4) for number in range(120)])
    service.labels([{"key": "t0108", "label": 1, "time": iso(28), "available_at": iso(28)}])
    rows = split(service)
    assert len(rows) == 20
    assert {key for key, row in rows.items() if row["label"] == 1} == {"t0108"}


def test_values_survive_as_they_are(month: Service) -> None:
    odd = {
        "carrier": 'a "quoted", text\r\nof\tthree\\ lines é 漢',
        "distance": 0.1 + 0.2,
        "embedding": [1e-300, -1e300],
    }
    month.events(
        [
            labelled(902, 26, **odd),
            labelled(903, 26, carrier="", distance=None),
            labelled(904, 26, carrier="\\.", distance=-5e-324),
            labelled(905, 26, carrier="null"),
        ]
    )
    rows = split(month)
    assert {name: rows["t0902"][name] for name in odd} == odd
    assert (rows["t0903"]["carrier"], rows["t0903"]["distance"]) == (None, None)
    assert (rows["t0904"]["carrier"], rows["t0904"]["distance"]) == ("\\.", -5e-324)
    assert rows["t0905"]["carrier"] == "null"


def test_events_of_an_earlier_spec_lack_what_it_did_not_have(month: Service) -> None:
    features = {**SPEC["features"], "carrier": {"type": "number"}, "weight": {"type": "number"}}
    assert month.client.post("/v1/pipelines", json={**SPEC, "features": features}).status_code == 200
    rows = split(month)
    assert len(rows) == 20
    assert (rows["t0108"]["carrier"], rows["t0108"]["weight"], rows["t0108"]["distance"]) == (None, None, 27.0)
    required = {**features, "weight": {"type": "number", "required": True}}
    assert month.client.post("/v1/pipelines", json={**SPEC, "features": required}).status_code == 200
    dataset = month.dataset(as_of=iso(31))
    assert dataset["state"] == "failed"
    assert (
        "No labelled example lies in the train window, 2024-01-11 00:00 to 2024-01-25 00:00 UTC." in dataset["reason"]
    )


def test_numbers_and_texts_of_an_earlier_spec_are_no_moments(month: Service) -> None:
    month.events([labelled(902, 26, distance=0.5), labelled(903, 26, distance=1e300), labelled(904, 26, carrier="7")])
    for name, first in (("distance", 910), ("carrier", 920)):
        features = {**SPEC["features"], name: SPEC["features"]["booked"]}
        assert month.client.post("/v1/pipelines", json={**SPEC, "features": features}).status_code == 200
        month.events([labelled(first, 26, **{name: iso(25)}), labelled(first + 1, 15, **{name: iso(14)})])
        # A moment is required: the rows that lack it are no examples.
        assert (set(split(month)), set(split(month, "train"))) == ({f"t{first:04d}"}, {f"t{first + 1:04d}"})


def test_an_empty_pipeline_fails_with_a_sentence(trips: Service) -> None:
    dataset = trips.dataset()
    assert (dataset["state"], dataset["digest"]) == ("failed", None)
    assert "Send events and labels of that time" in dataset["reason"]
    assert trips.client.get("/v1/pipelines/trips/datasets/1/splits/train").status_code == 409
    assert trips.client.post("/v1/pipelines/trips/datasets/1/verify").status_code == 409
    assert "failed" in trips.client.get("/v1/pipelines/trips/datasets/1/card").text
