"""What five stages cost a list of 500 candidates, beside the run of a model over them and beside plain Python:
`python -m benchmarks.serving.postprocessing`.

The stages: calibrate (Platt), filter, boost, cap, diversify (MMR, k = 50), with 10,000 items on the removal list. Candidates are
alike by a field, or by a field and a vector of 64 numbers: both are measured. Timed is the processor time of the thread
(`time.thread_time`) from the model's scores to the list: taking the fields out of the rows, the removal list and the order
included; HTTP, reading the request, the model and the log are not. The model (24 numbers, 128 and 64 units, that of
`python -m benchmarks.serving`, untrained) scores 500 rows in the same round; plain Python (`plain_ranking.py`) does the same
stages and must come to the same list.

`stages` come right after the model's run over other data, `again` are the same once more: what caches that are warm save.

Last line: `{"fields": {...}, "vectors": {...}}`, each `{"p50_us", "p99_us", "again_p50_us", "again_p99_us", "traced_p50_us",
"without_diversify_p50_us", "model_p50_us", "to_model", "plain_p50_us", "times_plain", "same"}`.
"""

import argparse
import json
import os
import random
import time
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import pairwise
from statistics import median
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as the stack and the image start serving; numpy reads it once
import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper
from pydantic import TypeAdapter
from rich.console import Console

from benchmarks.serving import plain_ranking
from benchmarks.serving.plain_ranking import Item
from services.serving.models.loader import codec_for
from services.serving.models.model import read_signature
from services.serving.postprocessing.answers import Scores
from services.serving.postprocessing.plan import Plan, Ranked
from services.serving.postprocessing.removals import KEY
from shared.spec import parse
from shared.spec.postprocessing import Stages

CANDIDATES, PICKED, LENGTH, REMOVED = 500, 50, 64, 10_000
NUMBERS, UNITS = 24, (128, 64)
STAGES: list[dict[str, Any]] = [
    {"type": "calibrate", "platt": {"slope": 1.2, "intercept": -0.1}},
    {"type": "filter", "drop": {"field": "stock", "at_most": 2}},
    {"type": "boost", "where": {"field": "seller", "one_of": [f"seller-{n}" for n in range(20)]}, "multiply": 1.2},
    {"type": "cap", "field": "seller", "most": 10},
    {"type": "diversify", "k": PICKED, "relevance_weight": 0.7, "fields": ["category"]},
]
VECTOR = "look"
WARM = 50


PIPELINE: dict[str, Any] = {
    "name": "ranking-bench",
    "task": "binary",
    "key": "item",
    "time": "at",
    "columns": ["seller", "stock"],
    "features": {"category": {"type": "category", "vocabulary": 16}},
    "label": {"name": "clicked"},
}
SIGNATURE: dict[str, Any] = {
    "inputs": [{"name": "category", "kind": "category"}],
    "output": "score",
    "task": "binary",
}
AT = datetime(2026, 6, 1, tzinfo=UTC)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=2_000)
    options = parser.parse_args()
    console = Console(width=110, highlight=False)
    print(json.dumps({name: _measured(console, options.requests, name) for name in ("fields", "vectors")}))


def _measured(console: Console, rounds: int, by: str) -> dict[str, Any]:
    draw = random.Random(3)
    pipeline, signature, stages = _with_vectors() if by == "vectors" else (PIPELINE, SIGNATURE, STAGES)
    requests = [_items(draw, vectors=by == "vectors") for _ in range(20)]
    removed = {f"item-{draw.randrange(10**6)}" for _ in range(REMOVED)} | {items[0].key for items in requests}
    compiled = TypeAdapter(Stages).validate_python(stages)
    plan, cheap = Plan(compiled, {KEY: frozenset(removed)}), Plan(compiled[:-1], {KEY: frozenset(removed)})
    spec = parse(pipeline)
    codec = codec_for(spec, spec, read_signature(signature))
    session, rows = _model(), np.random.default_rng(3).normal(size=(CANDIDATES, NUMBERS)).astype(np.float32)
    times: dict[str, list[float]] = {
        name: [] for name in ("stages", "again", "traced", "without_diversify", "model", "plain")
    }

    def scores(items: list[Item]) -> tuple[Scores, np.ndarray]:
        """Read as serving reads them, which is not timed, and what the model says of them."""
        instances = [{"item": item.key, "at": AT.isoformat(), **item.fields} for item in items]
        read = codec.read(instances, AT)
        raw = [item.score for item in items]
        asked = Scores(codec, read, [row.key for row in read], [""] * len(read), raw, codec.feeds([read]), 0)
        return asked, np.array(raw, np.float32)

    def rank(plan: Plan, asked: Scores, said: np.ndarray, *, trace: bool = False) -> Ranked:
        return plan.rank(said.tolist(), asked.keys, asked, trace=trace)

    for number in range(-WARM, rounds):
        asked = scores(requests[number % len(requests)])
        acts: dict[str, Callable[[], Any]] = {
            "model": lambda: session.run(["score"], {"numbers": rows}),
            "stages": lambda: rank(plan, *asked),  # noqa: B023
            "again": lambda: rank(plan, *asked),  # noqa: B023
            "traced": lambda: rank(plan, *asked, trace=True),  # noqa: B023
            "without_diversify": lambda: rank(cheap, *asked),  # noqa: B023
        }
        for name, act in acts.items():
            _timed(times[name], act, keep=number >= 0)
    same = 0
    for items in requests:
        asked = scores(items)
        plain: list[Item] = _timed(times["plain"], lambda: plain_ranking.rank(items, compiled, removed))  # noqa: B023
        found = rank(plan, *asked)
        same += [item.key for item in plain] == [asked[0].keys[index] for index in found.order]
    middle = {name: median(values) for name, values in times.items()}
    console.print(f"alike by {by}")
    for name, values in times.items():
        low, high = np.quantile(values, [0.05, 0.99])
        console.print(f"{name:<18} {middle[name]:9,.0f} us (5 % {low:,.0f}, 99 % {high:,.0f}; {len(values)} times)")
    console.print(f"of {len(requests)} lists, {same} are those of plain Python")
    return {
        "p50_us": round(middle["stages"]),
        "p99_us": round(float(np.quantile(times["stages"], 0.99))),
        "again_p50_us": round(middle["again"]),
        "again_p99_us": round(float(np.quantile(times["again"], 0.99))),
        "traced_p50_us": round(middle["traced"]),
        "without_diversify_p50_us": round(middle["without_diversify"]),
        "model_p50_us": round(middle["model"]),
        "to_model": round(middle["stages"] / middle["model"], 2),
        "plain_p50_us": round(middle["plain"]),
        "times_plain": round(middle["plain"] / middle["stages"]),
        "same": f"{same} of {len(requests)}",
    }


def _with_vectors() -> tuple[dict[str, Any], dict[str, Any], list[dict[str, Any]]]:
    features = {**PIPELINE["features"], VECTOR: {"type": "vector", "length": LENGTH}}
    inputs = [*SIGNATURE["inputs"], {"name": VECTOR, "kind": "vector", "length": LENGTH}]
    stages = [*STAGES[:-1], {**STAGES[-1], "vector": VECTOR}]
    return {**PIPELINE, "features": features}, {**SIGNATURE, "inputs": inputs}, stages


def _timed(times: list[float], act: Callable[[], Any], *, keep: bool = True) -> Any:
    began = time.thread_time_ns()
    result = act()
    if keep:
        times.append((time.thread_time_ns() - began) / 1e3)
    return result


def _items(draw: random.Random, *, vectors: bool) -> list[Item]:
    """In the order of their keys, as serving has them."""
    keys = sorted(f"item-{number}" for number in draw.sample(range(10**6), CANDIDATES))
    return [
        Item(
            key,
            {
                "seller": f"seller-{draw.randrange(60)}",
                "category": f"category-{draw.randrange(12)}" if draw.random() < 0.9 else None,
                "stock": float(draw.randrange(50)),
                **({VECTOR: [draw.gauss(0, 1) for _ in range(LENGTH)]} if vectors else {}),
            },
            float(np.float32(draw.random())),
        )
        for key in keys
    ]


def _model() -> ort.InferenceSession:
    """24 numbers, two layers, one score; on one thread, as serving runs it."""
    draw, nodes, weights, given = np.random.default_rng(5), [], [], "numbers"
    sizes = (NUMBERS, *UNITS, 1)
    for layer, (before, after) in enumerate(pairwise(sizes)):
        weights.append(numpy_helper.from_array(draw.normal(size=(before, after)).astype(np.float32), f"w{layer}"))
        nodes.append(helper.make_node("MatMul", [given, f"w{layer}"], [f"m{layer}"]))
        kind, given = ("Relu", f"h{layer}") if after > 1 else ("Sigmoid", "score")
        nodes.append(helper.make_node(kind, [f"m{layer}"], [given]))
    graph = helper.make_graph(
        nodes,
        "mlp",
        [helper.make_tensor_value_info("numbers", TensorProto.FLOAT, ["n", NUMBERS])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["n", 1])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.checker.check_model(model)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


if __name__ == "__main__":
    main()
