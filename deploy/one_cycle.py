"""One pass through the loop on a stack that runs elsewhere, over public HTTP alone: events in, a prediction out.

    RELEVO_SERVING_URL=... RELEVO_DATA_URL=... RELEVO_TRAINER_URL=... RELEVO_VALIDATOR_URL=... RELEVO_API_KEY=... \\
        python deploy/one_cycle.py

Made for a fresh deployment (`make compose-test`). It leaves a small pipeline `deployment-check` behind, on invented parcels.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import numpy as np
import orjson
import typer

from cli.addresses import NoAddresses, find
from cli.client import Client, Json
from cli.transport import CallFailed
from cli.wait import StillGoing, wait_for
from shared.registry.states import CycleState

PIPELINE: Json = {
    "name": "deployment-check",
    "description": "Will a parcel arrive late? Invented rows that show whether a deployment works.",
    "task": "binary",
    "key": "parcel",
    "time": "sent_at",
    "features": {
        "carrier": {"type": "category", "vocabulary": 8},
        "distance_km": {"type": "number", "transform": "log1p"},
        "sent_at": {"type": "timestamp", "calendar": ["weekday"]},
    },
    "label": {"name": "late", "if_missing": "drop"},
    "dataset": {"window": "40d", "test": "8d"},
    "network": {"kind": "mlp", "hidden": [16]},
    "training": {"epochs": 3, "batch_size": 256, "learning_rate": 0.01},
}
CARRIERS = ("north", "south", "east")
DAYS = 40
OVER = {CycleState.RELEASED, CycleState.HELD, CycleState.REJECTED, CycleState.FAILED, CycleState.CANCELLED}


class NotServed(Exception):
    """The stack answered, but not with what a working one answers with."""


def parcels(rows: int, *, until: datetime, seed: int) -> Iterator[Json]:
    """Labelled events spread over the 40 days before `until`: distance and one carrier make parcels late."""
    random = np.random.default_rng(seed)
    distances = random.lognormal(mean=5, sigma=1, size=rows)
    carriers = random.integers(len(CARRIERS), size=rows)
    ages_s = np.sort(random.uniform(0, DAYS * 86_400, size=rows))[::-1]
    late = random.random(rows) < 1 / (1 + np.exp(3.5 - 0.5 * np.log1p(distances) - 1.5 * (carriers == 2)))
    for number in range(rows):
        yield {
            "parcel": f"{until:%Y%m%dT%H%M%S}-{number}",
            "sent_at": (until - timedelta(seconds=float(ages_s[number]))).isoformat(),
            "carrier": CARRIERS[carriers[number]],
            "distance_km": round(float(distances[number]), 1),
            "late": int(late[number]),
        }


def run(client: Client, *, rows: int, seed: int, now: datetime, deadline_s: float) -> Json:
    """Apply, ingest, one cycle to its release, predict, feed back; what serving answered.

    Raises:
        NotServed: a step came to another end than it must.
        CallFailed, StillGoing: a service refused, did not answer, or the cycle took too long.
    """
    name = PIPELINE["name"]
    typer.echo(f"pipeline {name}: {client.apply(PIPELINE)['action']}")
    body = b"\n".join(orjson.dumps(event) for event in parcels(rows, until=now, seed=seed))
    verdicts = client.ingest(name, body, "application/x-ndjson")
    if verdicts["accepted"] != rows:
        raise NotServed(f"{rows} events were sent, but the verdicts are {_short(verdicts)}.")
    typer.echo(f"events: {rows} accepted")

    started = client.start_cycle(name)
    seen: list[str] = []

    def show(state: str) -> None:
        if state not in seen:
            seen.append(state)
            typer.echo(f"cycle: {state}")

    cycle = wait_for(started, lambda: client.cycle(name, started["id"]), OVER, show, deadline_s=deadline_s)
    if cycle["state"] != CycleState.RELEASED:
        raise NotServed(f"The cycle ended as {cycle['state']}: {cycle['reason']}")
    typer.echo(f"version {cycle['version']}: {cycle['reason']}")

    instance = {"sent_at": now.isoformat(), "carrier": "east", "distance_km": 420.0}
    answer = client.predict(name, [{"parcel": f"{now:%Y%m%dT%H%M%S}-asked", **instance}])
    (prediction,) = answer["predictions"]
    if answer["model_version"] != cycle["version"] or not 0 <= prediction["score"] <= 1:
        raise NotServed(f"Version {cycle['version']} was released, but /predict answers {_short(answer)}.")
    feedback = client.feedback([{"prediction_id": prediction["prediction_id"], "label": 1}])
    typer.echo(f"feedback: {_short(feedback)}")
    return answer


def main(
    rows: Annotated[int, typer.Option(min=1000, help="Events to invent.")] = 4000,
    seed: Annotated[int, typer.Option(help="Of the invented events.")] = 7,
    deadline_s: Annotated[float, typer.Option(help="Longest time the cycle may take.")] = 600,
) -> None:
    """Run one loop cycle against the services that RELEVO_*_URL and RELEVO_API_KEY name."""
    try:
        with Client(find(None)) as client:
            answer = run(client, rows=rows, seed=seed, now=datetime.now(UTC), deadline_s=deadline_s)
    except (NoAddresses, NotServed, CallFailed, StillGoing) as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None
    typer.echo(f"prediction: {orjson.dumps(answer).decode()}")


def _short(answer: Any) -> str:
    return orjson.dumps(answer).decode()[:500]


if __name__ == "__main__":
    typer.run(main)
