"""Labels a second through /feedback, against a bare COPY of the same rows, and what feedback costs the predictions beside it.

    python -m benchmarks.serving.feedback [--labels 20000] [--batch 1000] [--rounds 3] [--seconds 4]

Each round predicts rows, sends the truth about each by prediction id (`id`), sends all of it again (`again`: duplicates), sends
as many labels by key (`key`), and copies the rows that came of `id` into a table without indexes: the least that storing costs.
One client sends one batch after the other; serving has one core, the client, PostgreSQL and the rest another.

Last line: `{"labels_s": {"id", "again", "key", "copy"}, "share": {"id", "again", "key"}, "predict_p99_ms": {"alone", "beside"},
"wrong"}`: medians; `share` is of the COPY in the same round, `wrong` counts verdicts and stored rows that are not as expected.
"""

import argparse
import json
import os
import signal
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import orjson
import psycopg
from rich.console import Console

from benchmarks.serving import rows, stack, wrk
from cli.stack.ports import free_ports

CONNECTIONS = 16
LOAD = 0.5
"""Share of the peak at which predictions are made beside feedback."""


class Sender:
    """Sends feedback, and counts what is not as expected."""

    def __init__(self, relevo: stack.Stack, client: httpx.Client, batch: int) -> None:
        self._relevo, self._client, self._batch = relevo, client, batch
        self.wrong = 0

    def predicted(self, count: int) -> list[str]:
        """Prediction ids of so many new predictions."""
        ids: list[str] = []
        while len(ids) < count:
            body = rows.request_body(min(self._batch, count - len(ids)))
            answer = self._client.post(f"{self._relevo.serving}/predict", content=body).raise_for_status()
            ids += [row["prediction_id"] for row in answer.json()["predictions"]]
        return ids

    def send(self, items: Sequence[dict[str, Any]], verdict: str) -> float:
        """Seconds that it takes, one batch after the other; every item is expected to get this verdict."""
        bodies = [orjson.dumps(items[start : start + self._batch]) for start in range(0, len(items), self._batch)]
        taken = 0
        began = time.perf_counter()
        answers = [self._client.post(f"{self._relevo.serving}/feedback", content=body) for body in bodies]
        seconds = time.perf_counter() - began
        for answer in answers:
            taken += answer.raise_for_status().json()[verdict]
        self.wrong += len(items) - taken
        return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", type=int, default=20_000, help="of each kind, in each round")
    parser.add_argument("--batch", type=int, default=1_000, help="items of a request")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4, help="of each load of predictions")
    options = parser.parse_args()
    wrk.require_wrk()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the stack is stopped however this ends
    console = Console(width=110, highlight=False)
    serving_core, load_core = sorted(os.sched_getaffinity(0))[:2]
    with tempfile.TemporaryDirectory() as folder, ExitStack() as life:
        with console.status("Starting the stack and releasing a model"):
            relevo = life.enter_context(
                stack.running(
                    Path(folder), stack.free_base(free_ports(())), rows.PIPELINE, rows.training_events(datetime.now(UTC)),
                    serving_core=serving_core, other_core=load_core,
                )
            )  # fmt: skip
        stack.pin(os.getpid(), load_core)
        headers = {"Authorization": f"Bearer {relevo.key}", "Content-Type": "application/json"}
        client = life.enter_context(httpx.Client(headers=headers, timeout=120))
        database = life.enter_context(psycopg.connect(relevo.database_url))
        sender = Sender(relevo, client, options.batch)
        rates: dict[str, list[float]] = {"id": [], "again": [], "key": [], "copy": []}
        for number in range(options.rounds + 1):
            measured = {
                name: options.labels / seconds
                for name, seconds in _round(relevo, sender, database, number, options.labels)
            }
            if number:  # the first round warms
                for name, rate in measured.items():
                    rates[name].append(rate)
                console.print("   ".join(f"{name} {rate:9,.0f}" for name, rate in measured.items()) + "   labels/s")
        p99_ms = _beside(relevo, sender, options.seconds, load_core)
        sender.wrong += abs(_stored(database) - 2 * options.labels * (options.rounds + 1))
    result = {
        "labels_s": {name: round(median(found)) for name, found in rates.items()},
        "share": {
            name: round(median(rate / copy for rate, copy in zip(rates[name], rates["copy"], strict=True)), 4)
            for name in ("id", "again", "key")
        },
        "predict_p99_ms": p99_ms,
        "wrong": sender.wrong,
    }
    print(json.dumps(result))


def _round(
    relevo: stack.Stack, sender: Sender, database: psycopg.Connection[Any], number: int, count: int
) -> Iterator[tuple[str, float]]:
    ids = sender.predicted(count)
    stack.drain(relevo, relevo.metric("relevo_serving_predictions_total"))  # nobody pays for the log of the predictions
    by_id = [{"prediction_id": each, "label": place % 2} for place, each in enumerate(ids)]
    yield "id", sender.send(by_id, "accepted")
    yield "copy", _copy(database, count)
    yield "again", sender.send(by_id, "duplicates")
    by_key = [{"key": f"feedback-{number}-{place}", "label": place % 2} for place in range(count)]
    yield "key", sender.send(by_key, "accepted")


def _copy(database: psycopg.Connection[Any], count: int) -> float:
    """Seconds to copy the newest rows of the labels into a table that has nothing but them."""
    columns = (
        "pipeline_id, key, request_id, row_index, label, label_time, available_at, source, source_rank, content_digest"
    )
    with database.cursor() as cursor:
        newest = f"select {columns} from labels order by seq desc limit {count}"
        with cursor.copy(f"copy ({newest}) to stdout") as out:  # type: ignore[arg-type]
            data = b"".join(map(bytes, out))
        cursor.execute(f"create table bare as select {columns} from labels with no data")  # type: ignore[arg-type]
        database.commit()
        began = time.perf_counter()
        with cursor.copy("copy bare from stdin") as into:
            into.write(data)
        database.commit()
        seconds = time.perf_counter() - began
        cursor.execute("drop table bare")
        database.commit()
    return seconds


def _beside(relevo: stack.Stack, sender: Sender, seconds: float, core: int) -> dict[str, float]:
    """The p99 of predictions at a part of their peak, without feedback and with one client that sends it all the time."""

    def load(think_ms: float) -> wrk.Load:
        return wrk.run(
            f"{relevo.serving}/predict", rows.request_body(1), key=relevo.key, connections=CONNECTIONS, seconds=seconds,
            core=core, think_ms=think_ms,
        )  # fmt: skip

    think_ms = CONNECTIONS / (LOAD * load(0).rate) * 1e3
    alone = load(think_ms)
    ending = threading.Event()

    def keep_sending() -> None:
        number = 0
        while not ending.is_set():
            sender.send([{"key": f"beside-{number + place}", "label": 1} for place in range(1_000)], "accepted")
            number += 1_000

    thread = threading.Thread(target=keep_sending)
    thread.start()
    try:
        beside = load(think_ms)
    finally:
        ending.set()
        thread.join()
    return {"alone": alone.p99_ms, "beside": beside.p99_ms}


def _stored(database: psycopg.Connection[Any]) -> int:
    row = database.execute("select count(*) from labels where key is null or key like 'feedback-%'").fetchone()
    assert row is not None
    return int(row[0])


if __name__ == "__main__":
    main()
