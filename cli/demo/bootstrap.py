"""The start of a replay: a pipeline of its own with its cron paused, and two months of history."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from cli.client import Client, Json
from cli.demo.errors import DemoFailed
from cli.demo.rows import batches, events_parquet, labels
from cli.transport import Refused
from shared.spec import PipelineSpec

if TYPE_CHECKING:
    import pandas as pd

BATCH = 5_000
"""Rows of one upload."""


def free_name(client: Client, wanted: str) -> str:
    """`wanted`, or the first of `wanted-2`, `wanted-3`, ... that no pipeline has: each replay needs an empty past."""
    number, name = 1, wanted
    while _exists(client, name):
        number += 1
        name = f"{wanted}-{number}"
    return name


def apply_paused(client: Client, document: Json) -> None:
    """Create the pipeline, with its cron paused: in a replay cycles start in simulated time."""
    client.apply(document)
    client.set_schedule(document["name"], cron=None, paused=True)


def send_history(
    client: Client, spec: PipelineSpec, names: list[str], history: "pd.DataFrame", advance: Callable[[int], None]
) -> None:
    """Upload flights as events, and what became of them as labels known when it became known.

    Args:
        names: columns to send.
        advance: told how many flights were sent, batch by batch.

    Raises:
        DemoFailed: a row was refused.
    """
    for begin in range(0, len(history), BATCH):
        part = history.iloc[begin : begin + BATCH]
        body = events_parquet(part, names, spec.time)
        _all_taken("event", client.ingest(spec.name, body, "application/vnd.apache.parquet"))
        for rows in batches(labels(part, spec.key, spec.label.name), BATCH):
            _all_taken("label", client.label(spec.name, rows))
        advance(len(part))


def _exists(client: Client, name: str) -> bool:
    try:
        client.pipeline(name)
    except Refused as error:
        if error.status == 404:
            return False
        raise
    return True


def _all_taken(what: str, verdicts: Json) -> None:
    refused = verdicts.get("quarantined") or []
    if refused:
        first = refused[0]
        raise DemoFailed(
            f"{len(refused)} {what}s were put into quarantine; the first (row {first['index']}): {first['reason']}"
        )
