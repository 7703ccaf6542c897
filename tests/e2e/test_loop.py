"""The closed loop over public HTTP: data in, trained, judged, released, served, logged, told the truth, and learned from again."""

import io
import threading
from dataclasses import dataclass
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.e2e.orders import PER_DAY, as_of, events, moment, ndjson, orders, parquet, spec
from tests.e2e.stack import Json, Stack, until

NAME = "late-orders"
DATA = f"/v1/pipelines/{NAME}"
PARQUET, NDJSON = "application/vnd.apache.parquet", "application/x-ndjson"
UNTOLD = 10
"""The truth about every so-manieth served order never comes."""


@dataclass(frozen=True)
class Served:
    """What was asked and answered in the four days after the first release."""

    answers: dict[str, Json]
    """Prediction by key."""
    told: dict[str, int]
    """Label by key, of those whose truth was sent back."""
    feedback: Json


@pytest.fixture(scope="module")
def first(stack: Stack) -> Json:
    """The first cycle: sixteen days of events, in two uploads of different kinds."""
    assert stack.post("data", "/v1/pipelines", spec(NAME, "binary", "late", margin=0.1))["action"] == "create"
    past = orders(0, 16)
    rows = events(past, "late", [order.late for order in past])
    half = len(rows) // 2
    assert stack.send(NAME, parquet(rows[:half]), PARQUET) == {"accepted": half, "duplicates": 0, "quarantined": []}
    verdicts = stack.send(NAME, ndjson([*rows[half:], rows[-1], {**rows[0], "order": "odd", "courier": 7}]), NDJSON)
    assert (verdicts["accepted"], verdicts["duplicates"], len(verdicts["quarantined"])) == (half, 1, 1)
    return stack.cycle(NAME, as_of(16))


@pytest.fixture(scope="module")
def served(stack: Stack, first: Json) -> Served:
    """Four days predicted by the first model, and the truth about most of them told by prediction id."""
    assert first["state"] == "released", first["reason"]
    stack.live(NAME, 1)
    answers, told, items = {}, {}, []
    for day in range(16, 20):
        today = orders(day, 1)
        answer = stack.post("serving", "/predict", {"model": NAME, "instances": [order.instance for order in today]})
        assert (answer["model"], answer["model_version"]) == (NAME, 1)
        answers |= {prediction["key"]: prediction for prediction in answer["predictions"]}
        for number, order in enumerate(today):
            if number % UNTOLD:
                told[order.key] = order.late
                items.append({"prediction_id": answers[order.key]["prediction_id"], **order.truth(order.late)})
    return Served(answers, told, stack.post("serving", "/feedback", items))


@pytest.fixture(scope="module")
def second(stack: Stack, served: Served) -> Json:
    """The second cycle, judged on rows that only serving has seen."""
    assert served.feedback["rejected"] == 0
    shipped = "select count(*) from predictions p join pipelines on pipelines.id = p.pipeline_id where name = %s"
    until(lambda: stack.query(shipped, NAME) == [(4 * PER_DAY,)], "the predictions in the registry")
    return stack.cycle(NAME, as_of(20))


@pytest.fixture(scope="module")
def worse(stack: Stack, second: Json) -> Json:
    """The third cycle: twelve days with every label turned round, then four true ones."""
    assert second["state"] == "released", second["reason"]
    ahead = orders(20, 16)
    labels = [1 - order.late if order.instance["ordered_at"] < moment(32) else order.late for order in ahead]
    assert stack.send(NAME, ndjson(events(ahead, "late", labels)), NDJSON)["accepted"] == len(ahead)
    return stack.cycle(NAME, as_of(36))


def test_a_first_model_is_trained_judged_and_released(stack: Stack, first: Json) -> None:
    assert first["state"] == "released", first["reason"]
    verdict = stack.get("validator", f"{DATA}/validations/{first['validation_id']}")
    assert (verdict["state"], verdict["decision"], verdict["release_state"]) == ("passed", "promote", "done")
    assert "sane on 240 rows of 4 days" in verdict["sentence"]
    dataset = stack.dataset(NAME, first["dataset"])
    assert (dataset["train_rows"], dataset["test_rows"]) == (12 * PER_DAY, 4 * PER_DAY)
    run = stack.get("trainer", f"{DATA}/runs/{first['run_id']}")
    assert (run["state"], run["version"], run["attempt"]) == ("succeeded", 1, 1)
    assert run["epochs"]
    stack.live(NAME, 1)


def test_predictions_tell_late_orders_from_others(served: Served) -> None:
    assert len(served.answers) == 4 * PER_DAY
    scores = {
        label: [served.answers[key]["score"] for key, told in served.told.items() if told == label] for label in (0, 1)
    }
    assert all(0 <= score <= 1 for score in scores[0] + scores[1])
    assert sum(scores[1]) / len(scores[1]) > sum(scores[0]) / len(scores[0]) + 0.2
    assert served.feedback["accepted"] == len(served.told) == len(served.feedback["results"])


def test_served_predictions_and_their_feedback_become_examples(stack: Stack, served: Served, second: Json) -> None:
    dataset = stack.dataset(NAME, second["dataset"])
    assert (dataset["train_rows"], dataset["test_rows"]) == (12 * PER_DAY, len(served.told))
    answer = stack.call("GET", "data", f"{DATA}/datasets/{second['dataset']}/splits/test")
    rows = {row["key"]: row for row in pq.read_table(io.BytesIO(answer.content)).to_pylist()}
    assert {key: int(row["label"]) for key, row in rows.items()} == served.told
    sent = {order.key: order.instance for order in orders(16, 4)}
    for key, row in rows.items():
        assert (row["courier"], row["distance_km"]) == (sent[key]["courier"], sent[key]["distance_km"])


def test_the_second_model_is_compared_with_the_one_in_production(stack: Stack, served: Served, second: Json) -> None:
    verdict = stack.get("validator", f"{DATA}/validations/{second['validation_id']}")
    assert (verdict["candidate"], verdict["baseline"]) == (2, 1)
    assert f"on {len(served.told)} rows of 4 days" in verdict["sentence"]
    assert second["state"] == ("rejected" if verdict["decision"] == "reject" else "released")
    assert second["reason"] == verdict["sentence"]


def test_monitoring_shows_the_days(stack: Stack, served: Served, second: Json) -> None:
    def days() -> Json:
        found = stack.get("validator", f"{DATA}/monitoring", **{"from": moment(16), "to": moment(20)})["days"]
        return found if sum(day["labelled"] for day in found) == len(served.told) else None

    found = until(days, "the monitoring of all days")
    assert [day["day"] for day in found] == [moment(day)[:10] for day in range(16, 20)]
    for day in found:
        assert (day["predictions"], day["labelled"], day["versions"]) == (PER_DAY, PER_DAY - PER_DAY // UNTOLD, [1])
        assert day["auc"] > 0.7
        assert day["mean_label"] is not None


def test_swaps_while_predicting_fail_no_request_and_each_answer_names_its_model(stack: Stack, second: Json) -> None:
    stack.live(NAME, 2)
    stop, answered, failed = threading.Event(), {}, []
    sample = orders(60, 1)[0].instance

    def ask(worker: int) -> None:
        number = 0
        while not stop.is_set():
            key = f"swap-{worker}-{number}"
            answer = stack.call(
                "POST", "serving", "/predict", json={"model": NAME, "instances": [{**sample, "order": key}]}
            )
            if answer.status_code == 200:
                answered[key] = answer.json()["model_version"]
            else:
                failed.append(answer.text)
            number += 1

    workers = [threading.Thread(target=ask, args=[number]) for number in range(3)]
    for worker in workers:
        worker.start()
    try:
        for swap in range(10):
            path, order = ("promote", {"version": 1}) if swap % 2 == 0 else ("rollback", {"reason": "end-to-end test"})
            changed = stack.post("serving", f"/admin/models/{NAME}/{path}", order)
            assert (changed["changed"], changed["live_version"]) == (True, 1 + swap % 2)
            seen = len(answered)
            until(lambda seen=seen: len(answered) >= seen + 10 or failed, "predictions between two swaps")
    finally:
        stop.set()
        for worker in workers:
            worker.join()
    assert failed == []
    assert set(answered.values()) == {1, 2}
    history = stack.get("serving", f"/admin/models/{NAME}/history")["items"]
    assert [change["action"] for change in history[:4]] == ["rollback", "promote", "rollback", "promote"]
    logged = "select key, version_number from predictions where key like 'swap-%%'"
    until(lambda: len(stack.query(logged)) >= len(answered), "the predictions in the registry")
    assert sorted(stack.query(logged)) == sorted(answered.items())


def test_a_worse_candidate_is_rejected_with_an_alert_and_nothing_changes(stack: Stack, worse: Json) -> None:
    assert worse["state"] == "rejected", worse["reason"]
    assert "significantly worse than the model in production" in worse["reason"]
    (alert,) = stack.get("validator", f"{DATA}/alerts")["items"]
    assert (alert["kind"], alert["validation"]) == ("candidate-worse", worse["validation_id"])
    assert worse["reason"] in alert["message"]
    live = stack.get("serving", f"/admin/models/{NAME}")
    assert (live["live_version"], live["applied_version"]) == (2, 2)
    version = stack.get("trainer", f"{DATA}/versions/{worse['version']}")
    assert version["state"] == "rejected"
    refused = stack.call("POST", "serving", f"/admin/models/{NAME}/promote", json={"version": worse["version"]})
    assert refused.status_code == 409, refused.text


def test_earlier_datasets_rebuild_to_the_same_digest_after_more_data_came(
    stack: Stack, first: Json, second: Json, worse: Json
) -> None:
    # Later than all datasets, about rows of their windows, and claiming to have been known in time.
    missed = [{**order.instance, "order": f"missed-{order.key}"} for order in orders(14, 4)]
    corrected = [{"key": order.key, **order.truth(1 - order.late)} for order in orders(2, 16)]
    labels = [{"key": row["order"], "label": 1, "time": row["available_at"]} for row in missed]
    assert stack.send(NAME, ndjson(missed), NDJSON)["accepted"] == len(missed)
    for label in corrected:
        label["time"] = label["available_at"] = moment(18)
    taken = stack.post("data", f"{DATA}/labels", corrected + labels)
    assert taken["accepted"] == len(corrected) + len(labels)

    fresh = stack.post("data", f"{DATA}/datasets", {"as_of": as_of(20)})["number"]
    until(lambda: stack.dataset(NAME, fresh)["state"] in ("ready", "failed"), "a dataset of what is known now")
    assert stack.dataset(NAME, fresh)["digest"] != stack.dataset(NAME, second["dataset"])["digest"]
    for cycle in (first, second):
        verified = stack.post("data", f"{DATA}/datasets/{cycle['dataset']}/verify")
        assert (verified["same"], verified["same_rows"]) == (True, True)
        assert verified["rebuilt_digest"] == stack.dataset(NAME, cycle["dataset"])["digest"]


def test_lineage_leads_from_an_answer_back_to_its_data(stack: Stack, served: Served, second: Json) -> None:
    key, _ = next(iter(served.told.items()))
    ((version, digest, dataset, verdict),) = stack.query(
        "select v.number, v.digest, d.number, x.decision from predictions p join versions v on v.id = p.version_id "
        "join datasets d on d.id = v.dataset_id join validations x on x.candidate_id = v.id where p.key = %s",
        key,
    )
    shown: dict[str, Any] = stack.get("trainer", f"{DATA}/versions/{version}")
    assert (version, shown["digest"], shown["dataset"], verdict) == (1, digest, dataset, "promote")
