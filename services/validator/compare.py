"""Scoring a candidate and the model in production on the same rows, judging, and writing the report. No database."""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.validator.gate import Outcome, Rows, bad_candidate, held, judge
from services.validator.held_out import HeldOutRows
from services.validator.sanity import judge_first
from shared.errors import Invalid
from shared.evaluation import evaluate, reliability
from shared.feeds import Feeds, feeds_of
from shared.onnx_check import check_model
from shared.scoring import open_model, score
from shared.spec import PipelineSpec

LATENCY_RUNS = 200
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Model:
    """A model version's file and what it takes."""

    number: int
    data: bytes
    signature: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Scored:
    """What one model gave on the rows."""

    scores: NDArray[np.float64]
    us_per_row: float
    one_row_p50_ms: float
    one_row_p99_ms: float


def compare(
    rows: HeldOutRows,
    candidate: Model,
    baseline: Model | None,
    *,
    spec: PipelineSpec,
    train_label_mean: float,
    seed: int,
    threads: int = 1,
    check: Callable[[], None] = lambda: None,
) -> tuple[Outcome, dict[str, Any]]:
    """Judge `candidate` on `rows`.

    Args:
        rows: rows that neither model was trained on.
        baseline: the model in production; None for a pipeline's first model.
        spec: the candidate's; its gate decides.
        train_label_mean: of the candidate's train split (first models are measured against it).
        seed: of the bootstrap.
        threads: for ONNX Runtime.
        check: called between the steps; raises to stop.

    Returns:
        The outcome, and the report: JSON values only.
    """
    report = _head(rows, spec, seed)
    try:
        own = run(candidate, rows, threads=threads)
    except Invalid as error:
        outcome = bad_candidate(f"The candidate cannot score the test rows: {error.detail}")
        return outcome, _with_outcome(report, outcome)
    report["candidate"] = _described(candidate, own, rows, spec)
    check()
    if baseline is None:
        judged = Rows(rows.labels, own.scores, rows.days)
        outcome = judge_first(
            judged,
            task=spec.task,
            gate=spec.gate,
            train_label_mean=train_label_mean,
            bias_tolerance=spec.monitoring.bias_tolerance,
            seed=seed,
        )
        return outcome, _with_outcome(report, outcome)
    try:
        other = run(baseline, rows, threads=threads)
    except Invalid as error:
        outcome = held(
            "bad-baseline",
            f"The model in production cannot score the candidate's test rows: {error.detail} Approve by hand.",
        )
        return outcome, _with_outcome(report, outcome)
    report["baseline"] = _described(baseline, other, rows, spec)
    check()
    outcome = judge(Rows(rows.labels, own.scores, rows.days, other.scores), task=spec.task, gate=spec.gate, seed=seed)
    return outcome, _with_outcome(report, outcome)


def run(model: Model, rows: HeldOutRows, *, threads: int) -> Scored:
    """Score all rows, and one row many times for the latency.

    Raises:
        Invalid: the file is no acceptable model, or does not take these rows.
    """
    check_model(model.data)
    session = open_model(model.data, threads=threads)
    feeds = feeds_of(rows.table, model.signature["inputs"])
    began = time.perf_counter()
    scores = score(session, feeds)
    seconds = time.perf_counter() - began
    one_ms = [_timed_ms(session, feeds, row) for row in range(min(LATENCY_RUNS, rows.count))]
    p50, p99 = np.percentile(one_ms, [50, 99]) if one_ms else (0.0, 0.0)
    return Scored(
        scores=scores.astype(np.float64),
        us_per_row=1e6 * seconds / max(1, rows.count),
        one_row_p50_ms=float(p50),
        one_row_p99_ms=float(p99),
    )


def _timed_ms(session: Any, feeds: Feeds, row: int) -> float:
    one = {name: values[row : row + 1] for name, values in feeds.items()}
    began = time.perf_counter()
    score(session, one)
    return 1000 * (time.perf_counter() - began)


def _head(rows: HeldOutRows, spec: PipelineSpec, seed: int) -> dict[str, Any]:
    first, last = (int(rows.days.min()), int(rows.days.max())) if rows.count else (None, None)
    return {
        "task": spec.task,
        "rows": rows.count,
        "rows_left_out": rows.left_out,
        "days": int(np.unique(rows.days).size),
        "first_day": _day(first),
        "last_day": _day(last),
        "gate": spec.gate.model_dump(mode="json"),
        "seed": seed,
    }


def _with_outcome(report: dict[str, Any], outcome: Outcome) -> dict[str, Any]:
    return {
        **report,
        "reason": outcome.reason,
        "comparison": asdict(outcome.comparison) if outcome.comparison else None,
        "checks": [asdict(check) for check in outcome.checks],
    }


def _described(model: Model, scored: Scored, rows: HeldOutRows, spec: PipelineSpec) -> dict[str, Any]:
    quality = evaluate(spec.task, rows.labels, scored.scores).as_json()
    bins = reliability(rows.labels, scored.scores) if spec.task == "binary" else []
    return {
        "version": model.number,
        **quality,
        "reliability": [asdict(b) for b in bins],
        "latency": {
            "us_per_row": scored.us_per_row,
            "one_row_p50_ms": scored.one_row_p50_ms,
            "one_row_p99_ms": scored.one_row_p99_ms,
        },
    }


def _day(number: int | None) -> str | None:
    return None if number is None else (EPOCH + timedelta(days=number)).date().isoformat()
