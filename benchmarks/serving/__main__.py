"""Serving's speed on one core, as a share of the floor measured beside it in the same run.

    python -m benchmarks.serving [--rounds 12] [--seconds 1] [--plain/--no-plain]

Relevo does everything it does in production: key check, validation, metrics, write-ahead log. All its serving processes share one
core; wrk, PostgreSQL and the rest of the stack have another. The apps take turns within each round, so that a slow minute of the
machine meets all of them; while another app has its turn, shipping rests. The floor is the same HTTP server with an app that
parses the JSON and answers a constant.

Last line: `{"share": {"1x1", "16x1", "64x1", "16x100"}, "cpu_share", "p99_ms", "floor_rps", "errors", "logged"}`, cases as
connections x rows. `cpu_share` is the same of processor time a request: it does not hold the waiting that
both have in common, and is less disturbed by what else the machine does.
`logged` is 1.0 when all that wrk saw answered is in PostgreSQL, and nothing but what it can have left under way.
"""

import argparse
import json
import os
import signal
import tempfile
import time
from contextlib import ExitStack, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import numpy as np
import onnxruntime as ort
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.serving import stack, wrk
from benchmarks.serving.ledger import Ledger
from benchmarks.serving.rows import PIPELINE, request_body, training_events
from benchmarks.serving.stack import drain
from cli.stack.ports import free_ports

ONE_ROW, MANY_ROWS = ((1, 1), (16, 1), (64, 1)), ((16, 100),)
LATENCY_LOAD = 0.7
LOG_HOLDS_S = 6
"""Seconds of answers to 100 rows."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=1, help="of each load")
    parser.add_argument(
        "--plain", action=argparse.BooleanOptionalAction, default=True, help="measure the plain app too"
    )
    options = parser.parse_args()
    console = Console(width=140, highlight=False)
    wrk.require_wrk()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the stack is stopped however this ends
    serving_core, load_core = sorted(os.sched_getaffinity(0))[:2]
    with tempfile.TemporaryDirectory() as folder, ExitStack() as life:
        ports = free_ports(())
        with console.status("Starting the stack and releasing a model"):
            base = stack.free_base(ports)
            relevo = life.enter_context(
                stack.running(
                    Path(folder),
                    base,
                    PIPELINE,
                    training_events(datetime.now(UTC)),
                    serving_core=serving_core,
                    other_core=load_core,
                )
            )
            apps = {"floor": life.enter_context(stack.app("floor", next(ports), serving_core))}
            if options.plain:
                apps["plain"] = life.enter_context(
                    stack.app("plain", next(ports), serving_core, MODEL=str(relevo.model))
                )
            apps["relevo"] = relevo.serving, relevo.serving_pid
        bench = _Bench(console, apps, relevo, options.rounds, options.seconds, load_core)
        for rows in (1, 32, 100, 1024):
            console.print(f"model alone, {rows:>5} rows: {_model_alone_us(relevo.model, rows):8.0f} us a run")
        for case in ONE_ROW:
            before = relevo.logged()
            bench.measure((case,), options.rounds)
            answered = relevo.metric("relevo_serving_predictions_total")
            drain_s = drain(relevo, answered)
            console.print(
                f"{case[0]}x{case[1]}: {answered - before:,.0f} predictions in PostgreSQL {drain_s:.1f} s after the last answer"
            )
        bench.latency(64)
        drain(relevo, relevo.metric("relevo_serving_predictions_total"))
        # No more than the log holds: it is 1 GiB, and fills faster than it is shipped.
        bench.measure(MANY_ROWS, max(1, min(options.rounds, int(LOG_HOLDS_S / options.seconds))))
        before, total = relevo.logged(), relevo.metric("relevo_serving_predictions_total")
        drain_s = drain(relevo, total)
        console.print(
            f"16x100: {total - before:,.0f} rows were left to ship; {(total - before) / max(drain_s, 1e-9):,.0f} rows/s"
        )
        bench.report(logged=bench.ledger.logged(relevo))


class _Bench:
    def __init__(
        self,
        console: Console,
        apps: dict[str, tuple[str, int]],
        relevo: stack.Stack,
        rounds: int,
        seconds: float,
        core: int,
    ) -> None:
        self._console, self._apps, self._relevo = console, apps, relevo
        self._rounds, self._seconds, self._core = rounds, seconds, core
        self.ledger = Ledger()
        """Of all loads on Relevo."""
        self._loads: dict[tuple[str, str], list[wrk.Load]] = {}
        self._latency: dict[str, list[wrk.Load]] = {}
        self._cpu_us: dict[tuple[str, str], list[float]] = {}
        """Processor time of a request, by case and app; without the shipper's, which is a process of its own."""

    def measure(self, cases: tuple[tuple[int, int], ...], rounds: int) -> None:
        """All apps in turn, in every case, so many times."""
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=self._console, transient=True) as progress:
            task = progress.add_task("Loads", total=len(cases) * len(self._apps) * rounds)
            for connections, rows in cases:
                body = request_body(rows)
                for name in self._apps:
                    self._run(name, body, connections, rows, 1)  # warm
                for _ in range(rounds):
                    for name in self._apps:
                        before_s = stack.cpu_s(self._apps[name][1])
                        load = self._run(name, body, connections, rows, self._seconds)
                        cpu_us = (stack.cpu_s(self._apps[name][1]) - before_s) / load.requests * 1e6
                        self._cpu_us.setdefault((f"{connections}x{rows}", name), []).append(cpu_us)
                        self._loads.setdefault((f"{connections}x{rows}", name), []).append(load)
                        progress.advance(task)
        for connections, rows in cases:
            self._show(f"{connections}x{rows}")

    def latency(self, connections: int) -> None:
        """Relevo at 70 % of its peak, and the floor at the same rate: each connection thinks between two requests."""
        case = f"{connections}x1"
        peak = median(load.rate for load in self._loads[(case, "relevo")])
        wanted = LATENCY_LOAD * peak
        found: dict[str, list[wrk.Load]] = {"floor": [], "relevo": []}
        think_ms = dict.fromkeys(found, connections / wanted * 1e3)
        for _ in range(self._rounds + 3):  # of which three find the pause that comes to the rate
            for name, loads in found.items():
                load = self._run(name, request_body(1), connections, 1, self._seconds, think_ms[name])
                think_ms[name] = max(0.1, think_ms[name] + connections * 1e3 * (1 / wanted - 1 / load.rate))
                loads.append(load)
        for name, loads in found.items():
            del loads[:3]
            rate, p50, p99 = (median(getattr(load, of) for load in loads) for of in ("rate", "p50_ms", "p99_ms"))
            self._console.print(
                f"{name} at {rate / peak:.0%} of relevo's peak ({rate:,.0f}/s): p50 {p50:.2f} ms, p99 {p99:.2f} ms "
                f"({min(load.p99_ms for load in loads):.2f} to {max(load.p99_ms for load in loads):.2f})"
            )
            self._latency["70%" if name == "relevo" else f"70%, {name}"] = loads

    def report(self, *, logged: float) -> None:
        """The last line."""
        every = [load for loads in (*self._loads.values(), *self._latency.values()) for load in loads]
        print(
            json.dumps(
                {
                    "share": {case: round(self._share(case), 3) for case in self._cases()},
                    "cpu_share": {case: round(self._cpu_share(case), 3) for case in self._cases()},
                    "p99_ms": {
                        **{
                            case: round(median(load.p99_ms for load in self._loads[(case, "relevo")]), 2)
                            for case in self._cases()
                        },
                        **{at: round(median(load.p99_ms for load in loads), 2) for at, loads in self._latency.items()},
                    },
                    "floor_rps": {
                        case: round(median(load.rate for load in self._loads[(case, "floor")]))
                        for case in self._cases()
                    },
                    "errors": sum(load.errors for load in every),
                    "logged": logged,
                }
            )
        )

    def _run(
        self, name: str, body: bytes, connections: int, rows: int, seconds: float, think_ms: float = 0
    ) -> wrk.Load:
        key = self._relevo.key if name == "relevo" else ""
        url = f"{self._apps[name][0]}/predict"
        with nullcontext() if name == "relevo" else self._relevo.not_shipping():
            load = wrk.run(
                url, body, key=key, connections=connections, seconds=seconds, core=self._core, think_ms=think_ms,
                first=think_ms > 0,
            )  # fmt: skip
        if name == "relevo":
            self.ledger.add(load, rows)
        return load

    def _cases(self) -> list[str]:
        return list(dict.fromkeys(case for case, _ in self._loads))

    def _share(self, case: str, name: str = "relevo") -> float:
        pairs = zip(self._loads[(case, name)], self._loads[(case, "floor")], strict=True)
        return median(load.rate / floor.rate for load, floor in pairs)

    def _cpu_share(self, case: str) -> float:
        """The floor's processor time of a request as a share of Relevo's; the shipper's is not in it."""
        return median(self._cpu_us[(case, "floor")]) / median(self._cpu_us[(case, "relevo")])

    def _show(self, case: str) -> None:
        for name in self._apps:
            loads = self._loads[(case, name)]
            shares = [load.rate / floor.rate for load, floor in zip(loads, self._loads[(case, "floor")], strict=True)]
            self._console.print(
                f"{case:>7} {name:<7} {median(load.rate for load in loads):9,.0f} requests/s   share of the floor "
                f"{median(shares):.3f} ({min(shares):.3f} to {max(shares):.3f})   p50 {median(load.p50_ms for load in loads):7.2f} "
                f"p99 {median(load.p99_ms for load in loads):7.2f} ms   {median(self._cpu_us[(case, name)]):6.1f} us of CPU "
                f"a request   errors {sum(load.errors for load in loads)}"
            )


def _model_alone_us(path: Path, rows: int) -> float:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    feeds = {given.name: np.zeros(rows, np.float32) for given in session.get_inputs()}
    times = []
    for _ in range(300):
        began = time.perf_counter()
        session.run(["score"], feeds)
        times.append(time.perf_counter() - began)
    return median(times) * 1e6


if __name__ == "__main__":
    main()
