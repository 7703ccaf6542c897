"""A day of the replay: every flight predicted by the live and by the frozen model, and every truth told once it is known."""

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

import numpy as np

from cli.client import Client, Json
from cli.demo.errors import DemoFailed
from cli.demo.plan import Day, Period
from cli.demo.rows import batches, feedback, instances
from cli.demo.score import Answers, Ledger
from cli.demo.truth import PendingTruth
from shared.spec import PipelineSpec

if TYPE_CHECKING:
    import pandas as pd

BATCH = 250
"""Instances of one request."""
FEEDBACK_BATCH = 1_000


class Replay:
    """Plays days in event time against a pipeline whose first model is live."""

    def __init__(
        self, client: Client, spec: PipelineSpec, names: list[str], flights: "pd.DataFrame", frozen: int
    ) -> None:
        self._client = client
        self._spec = spec
        self._names = names
        self._flights = flights
        self._departures = flights[spec.time]
        self._frozen_version = frozen
        self._pending = PendingTruth()
        self.ledger = Ledger()

    def play(self, period: Period, day: Day) -> int:
        """Predict the day's flights, then tell every truth known by its end. Returns the number of flights."""
        first, last = (int(self._departures.searchsorted(moment)) for moment in (day.start, day.end))
        flights = self._flights.iloc[first:last]
        if len(flights):
            self._predict(period, flights)
        self.tell(day.end)
        return len(flights)

    def tell(self, now: datetime) -> None:
        """Send the truth that is known at the simulated moment `now`.

        Raises:
            DemoFailed: serving refused an item.
        """
        for items in batches(self._pending.due(now), FEEDBACK_BATCH):
            verdicts = self._client.feedback(items)
            refused = [item for item in verdicts["results"] if item["status"] not in ("accepted", "duplicate")]
            if refused:
                raise DemoFailed(f"Serving refused feedback about its own predictions: {refused[0]}")

    def tell_the_rest(self) -> None:
        """Let time pass until the last flight has landed."""
        if (last := self._pending.last_known_at) is not None:
            self.tell(last)

    def _predict(self, period: Period, flights: "pd.DataFrame") -> None:
        rows = instances(flights, self._names, self._spec.time)
        live: list[Json] = []
        frozen: list[Json] = []
        versions: list[int] = []
        for batch in batches(rows, BATCH):
            version, answers = self._answers(batch, None)
            versions += [version] * len(answers)
            live += answers
            frozen += self._answers(batch, self._frozen_version)[1]
        label = flights[self._spec.label.name].to_numpy(dtype=np.float64)
        for answer, value, known_at in zip(live, label.tolist(), flights["known_at"], strict=True):
            if value == value:  # noqa: PLR0124  (NaN: the flight never arrived)
                self._pending.add(known_at, feedback(answer["prediction_id"], value, known_at))
        self.ledger.add(
            Answers(
                period=np.full(len(label), period.number, dtype=np.int64),
                label=label,
                live_version=np.array(versions, dtype=np.int64),
                live=np.array([answer["score"] for answer in live], dtype=np.float64),
                frozen=np.array([answer["score"] for answer in frozen], dtype=np.float64),
            )
        )

    def _answers(self, batch: Sequence[Json], version: int | None) -> tuple[int, list[Json]]:
        """The model version that answered, and one answer for each instance.

        Raises:
            DemoFailed: answers are missing, or another version answered than was asked for.
        """
        response = self._client.predict(self._spec.name, batch, version)
        answered, answers = response["model_version"], response["predictions"]
        if len(answers) != len(batch):
            raise DemoFailed(f"Serving gave {len(answers)} answers to {len(batch)} instances.")
        if version is not None and answered != version:
            raise DemoFailed(f"Version {version} was asked for, and version {answered} answered.")
        return answered, answers
