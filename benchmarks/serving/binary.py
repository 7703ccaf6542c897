"""What binary tensors save: a row of 1,000 numbers (a `vector` feature) by the Open Inference Protocol in binary and in JSON.

    python -m benchmarks.serving.binary [--rounds 5] [--seconds 2]

Decoding: from a request's body to tensors (`decode`), and to checked rows that are ready for the model and the log (`rows`).
End to end: over HTTP, all of serving (its log's shipping, too) on one core, wrk and the rest of the stack on another; the forms
take turns within each round. JSON is what `tritonclient` makes of the same float32; `/predict` gets its numbers with four decimals.

Last line: `{"decode", "rows", "http", "http_predict", "rps", "errors", "logged"}`; the first four say how many times as fast
binary is as JSON, and as `/predict`.
"""

import argparse
import json
import os
import random
import signal
import tempfile
import timeit
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from rich.console import Console

from benchmarks.serving import stack, wrk
from benchmarks.serving.ledger import Ledger
from cli.stack.ports import free_ports
from services.serving.models.loader import codec_for
from services.serving.models.model import read_signature
from services.serving.oip.framing import InferRequest, read_request
from services.serving.oip.rows import read_tensors
from shared.spec import parse

NAME, LENGTH, ROWS, CONNECTIONS, REPEATS = "binary-bench", 1000, 1_000, 16, 300
AT_US = 1_780_000_000_000_000
PIPELINE: dict[str, Any] = {
    "name": NAME,
    "description": "Two classes by one vector of 1,000 numbers: a model for which reading the request is the work.",
    "task": "binary",
    "key": "id",
    "time": "at",
    "features": {"embedding": {"type": "vector", "length": LENGTH}},
    "label": {"name": "positive", "mature_after": "1h"},
    "dataset": {"window": "60d", "test": "7d", "gap": "1h"},
    "network": {"kind": "mlp", "hidden": [16]},
    "training": {"epochs": 3, "batch_size": 128},
    "gate": {"metric": "log_loss", "margin": 0.05},
}
SIGNATURE = {"inputs": [{"name": "embedding", "kind": "vector", "length": LENGTH}], "output": "score", "task": "binary"}


@dataclass(frozen=True)
class Form:
    """One way to send the row."""

    path: str
    body: bytes
    json_bytes: int | None = None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2, help="of each load")
    options = parser.parse_args()
    wrk.require_wrk()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the stack is stopped however this ends
    console = Console(width=110, highlight=False)
    forms = _forms()
    result: dict[str, Any] = _decoding(console, forms)
    serving_core, load_core = sorted(os.sched_getaffinity(0))[:2]
    with tempfile.TemporaryDirectory() as folder, ExitStack() as life:
        base = stack.free_base(free_ports(()))
        events = _events(datetime.now(UTC))
        with console.status("Starting the stack and releasing a model"):
            relevo = life.enter_context(
                stack.running(Path(folder), base, PIPELINE, events, serving_core=serving_core, other_core=load_core)
            )
        loads: dict[str, list[wrk.Load]] = {name: [] for name in forms}
        ledger = Ledger()
        for number in range(options.rounds + 1):
            for name, form in forms.items():
                load = wrk.run(
                    f"{relevo.serving}{form.path}",
                    form.body,
                    key=relevo.key,
                    connections=CONNECTIONS,
                    seconds=options.seconds,
                    core=load_core,
                    json_bytes=form.json_bytes,
                )
                ledger.add(load, 1)
                # So that no form pays for the log of the one before.
                stack.drain(relevo, relevo.metric("relevo_serving_predictions_total"))
                if number:  # the first round warms
                    loads[name].append(load)
        logged = ledger.logged(relevo)
    for name, measured in loads.items():
        rates = [load.rate for load in measured]
        console.print(
            f"{name:<8} {median(rates):8,.0f} requests/s ({min(rates):,.0f} to {max(rates):,.0f}), "
            f"p99 {median(load.p99_ms for load in measured):.2f} ms"
        )

    def gain(name: str) -> float:
        pairs = zip(loads["binary"], loads[name], strict=True)
        return round(median(binary.rate / other.rate for binary, other in pairs), 2)

    result |= {
        "http": gain("json"),
        "http_predict": gain("predict"),
        "rps": {name: round(median(load.rate for load in measured)) for name, measured in loads.items()},
        "errors": sum(load.errors for measured in loads.values() for load in measured),
        "logged": logged,
    }
    print(json.dumps(result))


def _decoding(console: Console, forms: dict[str, Form]) -> dict[str, float]:
    """Medians of the ratio JSON : binary, both timed within each repeat."""
    spec = parse(PIPELINE)
    signature = read_signature(SIGNATURE)
    codec = codec_for(spec, spec, signature)

    def request(form: Form) -> InferRequest:
        return read_request(form.body, None if form.json_bytes is None else b"%d" % form.json_bytes, signature)

    def rows(form: Form) -> list[Any]:
        return read_tensors(codec, request(form).tensors, received_us=AT_US, request="f" * 32, max_rows=10)

    gains: dict[str, float] = {}
    steps: dict[str, Callable[[Form], Any]] = {"decode": request, "rows": rows}
    for step, read in steps.items():
        times: dict[str, list[float]] = {"binary": [], "json": []}
        for _ in range(REPEATS):
            for name, measured in times.items():
                form = forms[name]
                measured.append(timeit.timeit(lambda read=read, form=form: read(form), number=20) / 20 * 1e6)  # type: ignore[misc]
        pairs = zip(times["binary"], times["json"], strict=True)
        gains[step] = round(median(slow / fast for fast, slow in pairs), 1)
        console.print(
            f"{step:<8} binary {median(times['binary']):6.1f} us, JSON {median(times['json']):6.1f} us, "
            f"{gains[step]:.1f} times as fast"
        )
    return gains


def _forms() -> dict[str, Form]:
    values = np.random.default_rng(11).normal(size=LENGTH).astype("<f4")
    tensor: dict[str, Any] = {"name": "embedding", "shape": [1, LENGTH], "datatype": "FP32"}
    outputs = {"parameters": {"binary_data_output": True}}
    head = json.dumps({"inputs": [tensor | {"parameters": {"binary_data_size": values.nbytes}}]} | outputs).encode()
    plain = {"inputs": [tensor | {"data": [value.item() for value in values]}]}
    row = {"id": "row-1", "at": AT_US, "embedding": [round(value.item(), 4) for value in values]}
    return {
        "binary": Form(f"/v2/models/{NAME}/infer", head + values.tobytes(), len(head)),
        "json": Form(f"/v2/models/{NAME}/infer", json.dumps(plain).encode()),
        "predict": Form(f"/v1/models/{NAME}/predict", json.dumps({"instances": [row]}, separators=(",", ":")).encode()),
    }


def _events(end: datetime, *, seed: int = 7) -> Iterator[dict[str, Any]]:
    """Labelled events whose classes are a little apart in every number."""
    draw = random.Random(seed)
    for index in range(ROWS, 0, -1):
        at = end - timedelta(hours=1, minutes=80 * index)
        positive = draw.random() < 0.5
        yield {
            "id": f"train-{index}",
            "at": at.isoformat(),
            "embedding": [round(draw.gauss(0.1 if positive else -0.1, 1), 3) for _ in range(LENGTH)],
            "positive": int(positive),
            "available_at": at.isoformat(),
            "label_time": (at + timedelta(minutes=30)).isoformat(),
        }


if __name__ == "__main__":
    main()
