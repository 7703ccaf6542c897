"""The shadow's process, in this one: what is compared, what is not, and what is told."""

import json
import uuid
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from services.serving.models.catalogue import Catalogue, Pipeline, Version
from services.serving.models.loader import Loader
from services.serving.models.recent import RecentRequests
from services.serving.prediction_log import record
from services.serving.shadow.comparing import LOOK_S, RETRY_S, Comparing, Comparison
from services.serving.shadow.frames import Frame
from services.serving.shadow.report import Outcome, Report
from services.serving.shadow.score import MOST_UNSTORED, Scoring
from services.serving.shadow.store import ComparisonStore
from shared.artifacts import ArtifactStore, open_store
from tests.unit.serving.tiny_model import SIGNATURE, SPEC, tiny_model

PIPELINE = uuid.UUID(int=99)
NOW_US = 1_370_000_000_000_000


@pytest.fixture
def artifacts(tmp_path: Path) -> ArtifactStore:
    return open_store(f"file://{tmp_path}/artifacts")


class Harness:
    """Version n answers n/8 for carriers other than AA, plus 0.125 for AA."""

    def __init__(self, artifacts: ArtifactStore, folder: Path) -> None:
        self.now_s = 0.0
        self.specs = {1: SPEC}
        self.versions = {
            number: self._version(number, artifacts.put_bytes(tiny_model(number / 8))) for number in (1, 2)
        }
        self.comparing = Comparing(
            Loader(artifacts, folder / "cache", threads=1, recent=RecentRequests(0), max_instances=100).load,
            self.catalogue,
            clock=lambda: self.now_s,
        )

    def catalogue(self) -> Catalogue:
        return Catalogue({"delays": Pipeline(PIPELINE, "delays", max(self.specs), self.specs, self.versions, None)})

    def _version(self, number: int, digest: str) -> Version:
        return Version(
            id=uuid.UUID(int=number), number=number, state="validated", digest=digest, signature=SIGNATURE, spec_version=1,
            train_end=datetime(2013, 1, 1, tzinfo=UTC), train_label_mean=0.25,
        )  # fmt: skip


@pytest.fixture
def harness(artifacts: ArtifactStore, tmp_path: Path) -> Harness:
    return Harness(artifacts, tmp_path)


def frame(shadow: int = 2, **changes: Any) -> Frame:
    rows = [{"flight": f"AA-{row}", "departs": NOW_US, "carrier": "UA"} for row in (1, 2)]
    document = {
        "request": uuid.UUID(int=5).hex, "pipeline": PIPELINE.hex, "version": uuid.UUID(int=1).hex, "number": 1,
        "generation": 3, "received": NOW_US, "keys": ["AA-1", "AA-2"], "scores": [0.125, 0.25], "sent": {"instances": rows},
    }  # fmt: skip
    return Frame("delays", shadow, record.head(NOW_US // 1000, 2) + json.dumps(document | changes).encode())


def test_both_score_the_same_rows(harness: Harness) -> None:
    found = harness.comparing.compare(frame())
    assert isinstance(found, Comparison)
    assert (found.live_scores, found.shadow_scores, found.largest) == ([0.125, 0.25], [0.25, 0.25], 0.125)
    assert (found.live_version_id, found.shadow_version_id) == (uuid.UUID(int=1), uuid.UUID(int=2))
    assert found.requested_at == datetime.fromtimestamp(NOW_US / 1e6, UTC)
    rows = [{"flight": "AA-1", "departs": NOW_US, "carrier": "AA", "available_at": NOW_US}] * 2
    again = harness.comparing.compare(frame(rows=rows))
    assert isinstance(again, Comparison)
    assert again.shadow_scores == [0.375, 0.375], "rows that were logged by themselves go before what was sent"


def test_a_version_that_cannot_be_loaded_is_tried_again_after_a_while(
    harness: Harness, artifacts: ArtifactStore
) -> None:
    sound = harness.versions[2]
    harness.versions[2] = replace(sound, digest=artifacts.put_bytes(b"damaged"))
    assert harness.comparing.compare(frame()) is Outcome.FAILED
    assert harness.comparing.compare(frame(shadow=7)) is Outcome.FAILED
    harness.versions[2] = sound
    assert harness.comparing.compare(frame()) is Outcome.FAILED, "not for each request"
    harness.now_s = RETRY_S
    assert isinstance(harness.comparing.compare(frame()), Comparison)


def test_what_the_shadow_cannot_read_is_told(harness: Harness) -> None:
    assert harness.comparing.compare(frame(sent={"instances": [{"flight": "AA-1"}]})) is Outcome.UNREAD


def test_rows_with_a_field_that_a_newer_spec_has_added_are_compared(harness: Harness) -> None:
    assert isinstance(harness.comparing.compare(frame()), Comparison)
    rows = [{"flight": "AA-1", "departs": NOW_US, "carrier": "AA", "seats": 180}] * 2
    assert harness.comparing.compare(frame(sent={"instances": rows})) is Outcome.UNREAD
    harness.specs = {1: SPEC, 2: {**SPEC, "features": {**SPEC["features"], "seats": {"type": "number"}}}}
    assert harness.comparing.compare(frame(sent={"instances": rows})) is Outcome.UNREAD, "not for each request"
    harness.now_s = LOOK_S
    found = harness.comparing.compare(frame(sent={"instances": rows}))
    assert isinstance(found, Comparison)
    assert found.shadow_scores == [0.375, 0.375]


class Store(ComparisonStore):
    """Keeps what it is given."""

    def __init__(self) -> None:
        super().__init__("", keep=timedelta(days=1))
        self.batches: list[int] = []

    def store(self, comparisons: Sequence[Comparison]) -> bool:
        self.batches.append(len(comparisons))
        return True

    def prune(self) -> None:
        pass


def test_comparisons_are_stored_in_batches_and_counted(harness: Harness) -> None:
    told: list[Report] = []
    store = Store()
    scoring = Scoring(harness.comparing, store, told.append)
    for _ in range(MOST_UNSTORED + 5):
        scoring.take(frame())
    scoring.take(frame(shadow=7))
    scoring.flush()
    assert max(store.batches) <= MOST_UNSTORED
    assert sum(report.outcomes["delays", Outcome.COMPARED] for report in told) == MOST_UNSTORED + 5
    assert sum(report.outcomes["delays", Outcome.FAILED] for report in told) == 1
    assert {largest for report in told for _, largest in report.largest} == {0.125}
    document = json.loads(json.dumps(told[-1].to_document()))
    assert Report.of_document(document) == told[-1]


def test_without_postgresql_comparisons_are_dropped_and_counted(harness: Harness) -> None:
    told: list[Report] = []
    away = ComparisonStore("postgresql://nobody@127.0.0.1:1/nothing", keep=timedelta(days=1))
    scoring = Scoring(harness.comparing, away, told.append)
    scoring.take(frame())
    scoring.flush()
    scoring.take(frame())
    scoring.flush()
    assert sum(report.outcomes["delays", Outcome.UNSTORED] for report in told) == 2
