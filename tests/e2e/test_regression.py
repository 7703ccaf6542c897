"""A numeric label end to end: minutes of delay are learned, predicted, told and monitored."""

import pytest

from tests.e2e.orders import PER_DAY, as_of, events, moment, orders, parquet, spec
from tests.e2e.stack import Json, Stack, until

NAME = "minutes-late"
DATA = f"/v1/pipelines/{NAME}"


@pytest.fixture(scope="module")
def cycle(stack: Stack) -> Json:
    """A cycle over sixteen days of deliveries."""
    stack.post("data", "/v1/pipelines", spec(NAME, "regression", "minutes"))
    past = orders(0, 16)
    rows = events(past, "minutes", [order.minutes_late for order in past])
    stack.send(NAME, parquet(rows), "application/vnd.apache.parquet")
    return stack.cycle(NAME, as_of(16))


def test_minutes_of_delay_are_predicted_in_minutes(stack: Stack, cycle: Json) -> None:
    assert cycle["state"] == "released", cycle["reason"]
    stack.live(NAME, 1)
    today = orders(16, 1)
    answer = stack.post("serving", f"/v1/models/{NAME}/predict", {"instances": [order.instance for order in today]})
    scores = [prediction["score"] for prediction in answer["predictions"]]
    truth = [order.minutes_late for order in today]
    mean = sum(truth) / PER_DAY
    error = sum((score - true) ** 2 for score, true in zip(scores, truth, strict=True)) / PER_DAY
    assert error < sum((true - mean) ** 2 for true in truth) / PER_DAY / 2

    told = [
        {"model": NAME, "key": order.key, **order.truth(order.minutes_late)} for order in today
    ]  # by key: a prediction id is not needed
    assert stack.post("serving", "/feedback", told)["accepted"] == PER_DAY

    def day() -> Json:
        days = stack.get("validator", f"{DATA}/monitoring", **{"from": moment(16), "to": moment(17)})["days"]
        return days[0] if days and days[0]["labelled"] == PER_DAY else None

    found = until(day, "the monitoring of the day")
    assert found["loss"] == pytest.approx(error**0.5, rel=1e-3)
    assert found["mean_label"] == pytest.approx(mean, abs=1e-3)
    assert found["auc"] is None
