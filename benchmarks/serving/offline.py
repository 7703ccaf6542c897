"""Offline predictions on a year of real flights: rows a second against ONNX Runtime alone, and the latency of lookups.

    python -m benchmarks.serving.offline [--rounds 7] [--seconds 10] [--rate 2000]

A stack is started and a model released on a tenth of the flights. The year is uploaded as a Parquet file, and looked up over HTTP
by random keys at a fixed rate of arrivals; serving has one core, wrk and everything else another. What it would take to load the
scores into PostgreSQL is stated apart.

When the stack has stopped, in turn and in this process, with one scoring thread each: ONNX Runtime alone on tensors that lie ready
in memory (the yardstick), and all that the worker does with a dataset (Parquet read, tensors made, scored, keys hashed, files
written, index sorted, 200 rows compared with online, files stored and synced). Wall and processor time of both are stated: on a
machine with other work the former says more about that work. Reading and writing have threads of their own; where a core is free
for them, the processor time of the thread that scores is what counts.

Last line: `{"rows", "raw_rows_s", "precompute_rows_s", "ratio", "scoring_ratio", "cpu_ratio", "postgres_s", "upload_s", "peak_rps",
"rate", "p50_ms", "p99_ms", "errors"}`.
"""

import argparse
import io
import json
import os
import random
import signal
import tempfile
import time
import uuid
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import numpy as np
import pandas as pd
import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console

from benchmarks.serving import stack, wrk
from cli.flights import load_flights
from cli.stack.ports import free_ports
from services.data.files import ROW_GROUP_ROWS, WRITER, dataset_schema
from services.serving.models.catalogue import Pipeline, Version
from services.serving.models.loader import Loaded, Loader
from services.serving.models.recent import RecentRequests
from services.serving.offline import sources
from services.serving.offline.precompute import Plan, check_and_store
from services.serving.offline.scoring import Scorer, score_rows
from services.trainer.fit_model import signature_of
from shared.artifacts.folder import FolderStore
from shared.feeds import feeds_of
from shared.scoring import BATCH_ROWS, open_model, score
from shared.spec import PipelineSpec, load_yaml, parse

PIPELINE = Path(__file__).parents[2] / "pipelines" / "flights.yaml"
SAMPLE = 0.1
CONNECTIONS = 32
KEYS = 20_000
RAW_BATCHES = (512, 1024, 2048, 4096, BATCH_ROWS)
PARQUET = "application/vnd.apache.parquet"
SCRIPT = Path(__file__).with_name("lookups.lua")


@dataclass(frozen=True)
class Cost:
    """What one pass over all rows took."""

    wall_s: float
    cpu_s: float
    """Processor time of all threads."""
    scoring_s: float
    """Processor time of the thread that scores: with a core free for the reading and the writing, about what the whole takes."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=10, help="of lookups")
    parser.add_argument("--rate", type=float, default=2000, help="lookups a second")
    options = parser.parse_args()
    wrk.require_wrk()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the stack is stopped however this ends
    console = Console(width=110, highlight=False)
    document = load_yaml(PIPELINE.read_text())
    spec = parse(document)
    with console.status("Reading the flights"):
        flights = _until_now(load_flights(), spec)
    serving_core, load_core = sorted(os.sched_getaffinity(0))[:2]
    with tempfile.TemporaryDirectory() as folder:
        with ExitStack() as life:
            with console.status("Starting the stack and releasing a model"):
                relevo = life.enter_context(
                    stack.running(
                        Path(folder) / "stack",
                        stack.free_base(free_ports(())),
                        document,
                        _events(flights.sample(frac=SAMPLE, random_state=7), spec),
                        serving_core=serving_core,
                        other_core=load_core,
                    )
                )
            model = relevo.model.read_bytes()
            looked_up = _looking_up(console, spec, flights, relevo, options, load_core)
        result = _scoring(console, spec, flights, model, Path(folder), options.rounds) | looked_up
    print(json.dumps(result))


def _until_now(flights: pd.DataFrame, spec: PipelineSpec) -> pd.DataFrame:
    """The year, moved by whole days so that it ended the day before yesterday: datasets are of the last year."""
    moved = flights.copy()
    days = (pd.Timestamp(datetime.now(UTC)) - flights[spec.time].max()).days - 2
    moved[spec.time] += pd.Timedelta(days=days)
    return moved


def _events(flights: pd.DataFrame, spec: PipelineSpec) -> list[dict[str, Any]]:
    """Flights whose end is known, as events with their labels."""
    names = [spec.key, spec.time, spec.label.name, *(name for name in spec.input_features if name != spec.time)]
    rows = flights[flights[spec.label.name].notna()][names].to_dict("records")
    return [
        {
            name: value.isoformat() if isinstance(value, pd.Timestamp) else value
            for name, value in row.items()
            if value == value
        }
        for row in rows
    ]


# Scoring


def _scoring(
    console: Console, spec: PipelineSpec, flights: pd.DataFrame, model: bytes, folder: Path, rounds: int
) -> dict[str, Any]:
    table = _dataset(flights, spec)
    path = folder / "flights.parquet"
    pq.write_table(table, path, row_group_size=ROW_GROUP_ROWS, **WRITER)
    store = FolderStore(folder / "artifacts")
    plan, loaded = _plan(spec, store.put_bytes(model), store, folder)
    scorer = Scorer(open_model(model, threads=1), spec, list(loaded.version.signature["inputs"]), 1)
    feeds = feeds_of(table, scorer.inputs)
    raw = open_model(model, threads=1)
    alone = {size: _timed(lambda size=size: score(raw, feeds, batch_rows=size)) for size in RAW_BATCHES}
    best = min(alone, key=lambda size: alone[size].cpu_s)
    console.print(f"{len(table):,} rows; ONNX Runtime alone is fastest with {best:,} rows a run")
    yardstick, whole = [], []
    for number in range(rounds + 1):
        first = _timed(lambda: score(raw, feeds, batch_rows=best))
        made = folder / f"generation-{number}"
        second = _timed(partial(_precompute, plan, loaded, scorer, path, store, made))
        if number:  # the first round warms
            yardstick.append(first)
            whole.append(second)
    pairs = list(zip(yardstick, whole, strict=True))
    ratio = median(one.wall_s / other.wall_s for one, other in pairs)
    scoring_ratio = median(one.scoring_s / other.scoring_s for one, other in pairs)
    cpu_ratio = median(one.cpu_s / other.cpu_s for one, other in pairs)
    raw_rate = len(table) / median(one.wall_s for one in yardstick)
    rate = len(table) / median(other.wall_s for other in whole)
    console.print(
        f"ONNX Runtime alone {raw_rate:10,.0f} rows/s; precompute {rate:10,.0f} rows/s; share {ratio:.2f} "
        f"({min(a.wall_s / b.wall_s for a, b in pairs):.2f} to {max(a.wall_s / b.wall_s for a, b in pairs):.2f}); "
        f"of the scoring thread's processor time {scoring_ratio:.2f}, of all threads' {cpu_ratio:.2f}"
    )
    return {
        "rows": len(table),
        "raw_rows_s": round(raw_rate),
        "precompute_rows_s": round(rate),
        "ratio": round(ratio, 3),
        "scoring_ratio": round(scoring_ratio, 3),
        "cpu_ratio": round(cpu_ratio, 3),
    }


def _dataset(flights: pd.DataFrame, spec: PipelineSpec) -> pa.Table:
    """All flights as a dataset has them."""
    source = {"key": spec.key, "time": spec.time, "label": spec.label.name}
    schema = dataset_schema(spec)
    columns = [pa.Array.from_pandas(flights[source.get(field.name, field.name)]).cast(field.type) for field in schema]
    return pa.table(columns, schema=schema)


def _plan(spec: PipelineSpec, digest: str, store: FolderStore, folder: Path) -> tuple[Plan, Loaded]:
    """What the worker finds in the registry."""
    now = datetime.now(UTC)
    version = Version(uuid.uuid4(), 1, "validated", digest, signature_of(spec), 1, now, 0.2)
    pipeline = Pipeline(uuid.uuid4(), spec.name, 1, {1: spec.model_dump(mode="json")}, {1: version})
    plan = Plan(uuid.uuid4(), 1, pipeline, 1, {"dataset": 1}, None, now)
    loader = Loader(store, folder / "cache", threads=1, recent=RecentRequests(0), max_instances=1000)
    return plan, loader.load(pipeline, 1)


def _precompute(plan: Plan, loaded: Loaded, scorer: Scorer, path: Path, store: FolderStore, folder: Path) -> None:
    folder.mkdir()
    rows = pq.read_metadata(path).num_rows
    prepared = sources.Prepared([path], rows)
    scored = score_rows(sources.read(prepared, scorer.spec, scorer.version), scorer, folder, plan.seed)
    manifest, _ = check_and_store(store, plan, scored, loaded)
    store.put_bytes(manifest.encode())
    assert manifest.rows == rows


def _timed(act: Any) -> Cost:
    wall_s, cpu_s, scoring_s = time.perf_counter(), time.process_time(), time.thread_time()
    act()
    return Cost(time.perf_counter() - wall_s, time.process_time() - cpu_s, time.thread_time() - scoring_s)


# Looking up


def _looking_up(
    console: Console,
    spec: PipelineSpec,
    flights: pd.DataFrame,
    relevo: stack.Stack,
    options: argparse.Namespace,
    core: int,
) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {relevo.key}"}
    at = f"{relevo.serving}/v1/models/{spec.name}"
    names = [spec.key, *spec.input_features]
    body = io.BytesIO()
    pq.write_table(pa.table({name: pa.Array.from_pandas(flights[name]) for name in names}), body, compression="zstd")
    began = time.monotonic()
    asked = httpx.post(
        f"{at}/precompute", content=body.getvalue(), headers={**headers, "Content-Type": PARQUET}, timeout=120
    ).raise_for_status()
    row = asked.json()
    while row["state"] not in ("ready", "failed"):
        time.sleep(0.1)
        row = httpx.get(f"{at}/precompute/{row['number']}", headers=headers, timeout=30).raise_for_status().json()
    if row["state"] == "failed":
        raise SystemExit(f"the generation failed: {row['reason']}")
    upload_s = time.monotonic() - began
    console.print(f"uploaded, checked, scored and stored over HTTP, on one core with the whole stack: {upload_s:.1f} s")
    keys = random.Random(7).sample(list(flights[spec.key]), KEYS)
    while _score_of(at, keys[0], headers)["generation"] != row["number"]:
        time.sleep(0.1)
    postgres_s = _load_into_postgres(relevo.database_url, list(flights[spec.key]))
    console.print(
        f"loading {len(flights):,} keys and scores into a table with a primary key, apart: {postgres_s:.1f} s"
    )
    paths = "\n".join(f"/v1/models/{spec.name}/predictions/{key}" for key in keys).encode()

    def run(seconds: float, think_ms: float) -> wrk.Load:
        return wrk.run(
            relevo.serving,
            paths,
            key=relevo.key,
            connections=CONNECTIONS,
            seconds=seconds,
            core=core,
            think_ms=think_ms,
            script=SCRIPT,
        )

    peak = run(3, 0)
    think_ms = CONNECTIONS * 1e3 / options.rate
    for _ in range(3):
        load = run(2, think_ms)
        think_ms = max(0.1, think_ms + CONNECTIONS * 1e3 * (1 / options.rate - 1 / load.rate))
    load = run(options.seconds, think_ms)
    console.print(
        f"lookups: peak {peak.rate:,.0f}/s; at {load.rate:,.0f}/s p50 {load.p50_ms:.2f} ms, p99 {load.p99_ms:.2f} ms, "
        f"max {load.max_ms:.1f} ms, {load.errors} errors"
    )
    return {
        "postgres_s": round(postgres_s, 2),
        "upload_s": round(upload_s, 1),
        "peak_rps": round(peak.rate),
        "rate": round(load.rate),
        "p50_ms": round(load.p50_ms, 2),
        "p99_ms": round(load.p99_ms, 2),
        "errors": peak.errors + load.errors,
    }


def _score_of(at: str, key: str, headers: dict[str, str]) -> dict[str, Any]:
    answer = httpx.get(f"{at}/predictions/{key}", headers=headers, timeout=30)
    return answer.json() if answer.is_success else {"generation": None}


def _load_into_postgres(url: str, keys: list[str]) -> float:
    """Seconds to copy a score for each key."""
    scores = np.random.default_rng(7).random(len(keys), np.float32).tolist()
    with psycopg.connect(url) as connection:
        began = time.monotonic()
        connection.execute("create temporary table loaded (key text primary key, score real)")
        with connection.cursor() as cursor, cursor.copy("copy loaded from stdin") as copy:
            for row in zip(keys, scores, strict=True):
                copy.write_row(row)
        connection.commit()
        return time.monotonic() - began


if __name__ == "__main__":
    main()
