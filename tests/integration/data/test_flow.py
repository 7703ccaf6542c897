"""From a pipeline file to a dataset that is ready, over HTTP."""

import io

import pyarrow.parquet as pq

from shared.manifest import TRAIN_FILE, read_files
from tests.integration.data.conftest import Service
from tests.unit.data.samples import iso, labelled_month


def test_events_become_a_dataset_with_files_statistics_and_a_card(trips: Service) -> None:
    verdicts = trips.events(labelled_month())
    assert verdicts == {"accepted": 120, "duplicates": 0, "quarantined": []}

    dataset = trips.dataset(as_of=iso(31))

    assert dataset["state"] == "ready", dataset["reason"]
    # end = day 30 (mature after a day); test = days 25 to 30; train = days 10 to 24.
    assert (dataset["train_rows"], dataset["test_rows"]) == (14 * 4, 5 * 4)
    assert dataset["train_label_mean"] == 0.5
    assert dataset["progress"]["step"] == "done"
    files = read_files(trips.store, dataset["digest"])
    assert files[TRAIN_FILE].rows == 56
    answer = trips.client.get("/v1/pipelines/trips/datasets/1/splits/train")
    assert answer.status_code == 200
    assert answer.headers["etag"] == f'"{files[TRAIN_FILE].sha256}"'
    table = pq.read_table(io.BytesIO(answer.content))
    assert table.column_names == ["key", "time", "carrier", "distance", "booked", "began", "embedding", "label"]
    assert table["key"].to_pylist() == [f"t{number:04d}" for number in range(40, 96)]
    assert table["began"].to_pylist() == table["time"].to_pylist()
    assert table["embedding"].to_pylist()[0] == [40.0, 0.5]

    statistics = trips.get("/pipelines/trips/datasets/1/statistics")
    assert statistics["train"]["columns"]["carrier"]["distinct"] == 3
    card = trips.client.get("/v1/pipelines/trips/datasets/1/card").text
    assert "# trips, dataset 1" in card
    assert dataset["digest"] in card
