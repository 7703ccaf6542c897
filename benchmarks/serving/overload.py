"""Ten times the load that serving can take: what it still answers, how fast it refuses, and how soon it is itself again.

    python -m benchmarks.serving.overload [--seconds 60] [--times 10]

A model of 4096 by 4096 units, requests of 64 rows. The peak is measured by wrk with 6 connections, then an open-loop
generator of our own sends half the peak (the baseline), `--times` the peak, and half the peak again. Beside it a prober asks
/healthz, /readyz and the administration ten times a second. Serving, its scoring threads included, has one core; the load and the
rest the other.

Last line: `{"peak_per_s", "offered_per_s", "goodput", "refused_p99_ms", "answered_p99_ms", "baseline_p99_ms", "recovered_s",
"rss_growth", "admin_p99_ms", "admin_failed", "broken", "unsent", "statuses"}`.
"""

import argparse
import json
import os
import signal
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path

import httpx
from rich.console import Console

from benchmarks.serving import open_loop, rows, stack, wrk
from benchmarks.serving.open_loop import OK, Load, percentile
from benchmarks.serving.swaps import rss_bytes
from benchmarks.serving.turns import take_short_turns
from cli.stack.ports import free_ports

PIPELINE = {
    **rows.PIPELINE,
    "network": {"kind": "mlp", "hidden": [4096, 4096]},
    "training": {"epochs": 1, "batch_size": 512},
}
ROWS = 64
CLOSED, CONNECTIONS = 6, 1000
"""Of the load that finds the peak, and of the open loop."""
BASELINE = 0.5
REFUSED = (429, 503)
WINDOW_S = 0.5
MEMORY_FROM = 0.2
"""Memory is compared with that after this share of the overload: caches and allocator pools have filled by then."""
WITHIN = 1.5
"""Times the baseline's p99 that counts as back, and 5 ms, since a window holds few requests."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60, help="of overload")
    parser.add_argument("--times", type=float, default=10, help="the peak")
    options = parser.parse_args()
    console = Console(width=110, highlight=False)
    wrk.require_wrk()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the stack is stopped however this ends
    serving_core, load_core = sorted(os.sched_getaffinity(0))[:2]
    with tempfile.TemporaryDirectory() as folder, ExitStack() as life:
        with console.status("Starting the stack and releasing a heavy version"):
            relevo = life.enter_context(
                stack.running(
                    Path(folder), stack.free_base(free_ports(())), PIPELINE, rows.training_events(datetime.now(UTC)),
                    serving_core=serving_core, other_core=load_core,
                )
            )  # fmt: skip
        os.sched_setaffinity(0, {load_core})
        url, body = f"{relevo.serving}/predict", rows.request_body(ROWS)
        # In a process of its own, so that the prober need not wait for it.
        apart = life.enter_context(
            ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=take_short_turns)
        )
        message = open_loop.request(url, body, relevo.key)
        prober = Prober(relevo)
        life.callback(prober.stop)
        prober.start()
        wrk.run(url, body, key=relevo.key, connections=CLOSED, seconds=2, core=load_core)  # warm
        closed = wrk.run(url, body, key=relevo.key, connections=CLOSED, seconds=8, core=load_core)
        if closed.errors:
            raise SystemExit(
                f"{closed.errors} requests of the peak's load were not answered: there is no peak to compare with"
            )
        peak = closed.rate
        console.print(f"peak {peak:,.0f} requests/s of {ROWS} rows")

        def load(name: str, per_s: float, seconds: float) -> Load:
            found = apart.submit(
                open_loop.run, url, message, per_s=per_s, seconds=seconds, connections=CONNECTIONS
            ).result()  # fmt: skip
            answered, refused = found.took_ms(OK), found.took_ms(*REFUSED)
            console.print(
                f"{name:<9} {per_s:7,.0f}/s offered   {found.rate():7,.1f}/s answered (p50 {percentile(answered, 0.5):.1f}, "
                f"p99 {percentile(answered, 0.99):.1f} ms)   {len(refused) / seconds:7,.0f}/s refused "
                f"(p99 {percentile(refused, 0.99):.1f} ms)   unsent {found.unsent}"
            )
            return found

        before = load("baseline", BASELINE * peak, 10)
        began_s = time.monotonic()
        during = load("overload", options.times * peak, options.seconds)
        ended_s = time.monotonic()
        after = load("after", BASELINE * peak, 10)
        prober.stop()
        baseline_ms = percentile(before.took_ms(OK), 0.99)
        refused_ms = during.took_ms(*REFUSED)
        seen = [look for look in prober.seen if began_s <= look.at_s < ended_s]
        early = [look.rss for look in seen if look.at_s < began_s + max(MEMORY_FROM * options.seconds, 1.0)]
        result = {
            "peak_per_s": round(peak, 1),
            "offered_per_s": round(options.times * peak),
            "goodput": round(during.rate() / peak, 3),
            "refused_p99_ms": round(percentile(refused_ms, 0.99), 2),
            "answered_p99_ms": round(percentile(during.took_ms(OK), 0.99), 1),
            "baseline_p99_ms": round(baseline_ms, 1),
            "recovered_s": recovered_s(after, WITHIN * baseline_ms + 5),
            "rss_growth": round(max(look.rss for look in seen) / max(early) - 1, 3),
            "admin_p99_ms": round(percentile(sorted(look.took_ms for look in seen), 0.99), 1),
            "admin_failed": sum(not look.good for look in prober.seen),
            "broken": sum(answer.status == 0 for answer in during.answers),
            "unsent": during.unsent,
            "statuses": dict(Counter(answer.status for answer in during.answers)),
        }
        print(json.dumps(result))


def recovered_s(after: Load, within_ms: float) -> float | None:
    """Seconds after the overload from which every window's p99 is within so many milliseconds; None: at no time."""
    windows: dict[int, list[float]] = {}
    for answer in after.answers:
        took_ms = answer.took_s * 1e3 if answer.status == OK else float("inf")
        windows.setdefault(int(answer.due_s / WINDOW_S), []).append(took_ms)
    bad = [number for number, took_ms in windows.items() if percentile(sorted(took_ms), 0.99) > within_ms]
    back = (max(bad) + 1) * WINDOW_S if bad else 0.0
    return back if back < after.seconds else None


class Prober(threading.Thread):
    """Asks what must answer whatever happens, and looks at serving's memory."""

    PATHS = ("/healthz", "/readyz", f"/admin/models/{rows.NAME}")

    def __init__(self, relevo: stack.Stack) -> None:
        super().__init__(daemon=True)
        self._relevo = relevo
        self._ending = threading.Event()
        self.seen: list[Seen] = []

    def run(self) -> None:
        """Ask until `stop`."""
        take_short_turns()
        with httpx.Client(headers={"Authorization": f"Bearer {self._relevo.key}"}, timeout=20) as client:
            number = 0
            while not self._ending.wait(0.1):
                began_s = time.monotonic()
                try:
                    good = client.get(self._relevo.serving + self.PATHS[number % len(self.PATHS)]).is_success
                except httpx.TransportError:
                    good = False
                took_ms = (time.monotonic() - began_s) * 1e3
                self.seen.append(Seen(began_s, took_ms, good, rss_bytes(self._relevo.serving_pid)))
                number += 1

    def stop(self) -> None:
        """End it."""
        self._ending.set()
        self.join()


@dataclass(frozen=True)
class Seen:
    """One look of the prober."""

    at_s: float
    """By `time.monotonic`."""
    took_ms: float
    good: bool
    rss: int
    """Resident bytes of serving."""


if __name__ == "__main__":
    main()
