"""Hot swaps under load: what they cost the requests beside them, and whether every answer is of the version it names.

    python -m benchmarks.serving.swaps [--swaps 1000] [--every-ms 100] [--load 0.5] [--window-s 5]

Three good versions, trained from seeds of their own, take turns, so that each swap loads a file that is not in memory; every tenth
promotion names a version whose file is damaged and must be refused while the one before goes on answering. Windows without swaps
and with them alternate under the same load (wrk, at a share of the peak). All requests are of one row, whose score by each version
is known from the file: wrk compares every answer's score with that of the version it names, and a client beside it keeps its
answers and compares them with the rows of the prediction log.

Last line: `{"swaps", "refused", "requests", "failed_requests", "wrong_versions", "wrong_rows", "p99_ms": {"steady", "swapping"},
"p99_ratio", "rss_growth", "problems"}`. Status 1 when a promotion went otherwise than it must, a request failed, an answer or its
row was wrong, the ratio is above 2, or memory grew by 10 %.
"""

import argparse
import json
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import numpy as np
import psycopg
from rich.console import Console

from benchmarks.serving import rows, stack, wrk
from cli.addresses import of_stack
from cli.client import Client
from cli.stack.ports import free_ports
from shared import scoring

CONNECTIONS = 16
GOOD = 3
CORRUPT = GOOD + 1
CORRUPT_EVERY = 10
TOLERANCE = 1e-6
"""Largest difference of a score from that of its version; two versions' are further apart."""
MEMORY_FROM = 0.1
"""Memory is compared with that after the first tenth of the swaps: caches and allocator pools have filled by then."""
SHIPPED_S = 120
MOST_RATIO, MOST_GROWTH = 2.0, 0.1


@dataclass
class Swaps:
    """What became of the promotions."""

    live: int
    done: int = 0
    refused: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def turns(self) -> int:
        """Promotions that ended as they must."""
        return self.done + self.refused


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--swaps", type=int, default=1000, help="promotions, those of the damaged version included")
    parser.add_argument("--every-ms", type=float, default=100, help="from one promotion to the next")
    parser.add_argument("--load", type=float, default=0.5, help="share of the peak")
    parser.add_argument("--window-s", type=float, default=5)
    options = parser.parse_args()
    console = Console(width=110, highlight=False)
    wrk.require_wrk()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the stack is stopped however this ends
    serving_core, load_core = sorted(os.sched_getaffinity(0))[:2]
    with tempfile.TemporaryDirectory() as folder, ExitStack() as life:
        home = Path(folder)
        body = rows.request_body(1)
        with console.status("Starting the stack and releasing four versions"):
            relevo = life.enter_context(
                stack.running(
                    home, stack.free_base(free_ports(())), rows.PIPELINE, rows.training_events(datetime.now(UTC)),
                    serving_core=serving_core, other_core=load_core,
                )
            )  # fmt: skip
            client = life.enter_context(Client(of_stack(home)))
            for seed in range(1, CORRUPT):
                client.apply({**rows.PIPELINE, "training": {**rows.PIPELINE["training"], "seed": seed}})
                stack.release(client, rows.NAME)
            files = {version["number"]: artifact(home, version["digest"]) for version in client.versions(rows.NAME)}
            expected = {number: score_of(files[number], body) for number in range(1, CORRUPT)}
            check_apart(expected)
            damage(files[CORRUPT])
            client.promote(rows.NAME, GOOD)

        def load(think_ms: float, seconds: float) -> wrk.Load:
            return wrk.run(
                f"{relevo.serving}/predict", body, key=relevo.key, connections=CONNECTIONS, seconds=seconds, core=load_core,
                think_ms=think_ms, expected=expected, tolerance=TOLERANCE,
            )  # fmt: skip

        peak = load(0, 3).rate
        think_ms = CONNECTIONS / (options.load * peak) * 1e3
        swaps, answers = Swaps(live=GOOD), Answers(relevo, body, expected)
        life.callback(answers.stop)
        answers.start()
        windows = Windows(load, think_ms, options.window_s)
        first_rss = 0
        while swaps.turns < options.swaps and not swaps.problems:
            pair = windows.pair(lambda: Promoter(client, swaps, options.swaps, options.every_ms / 1e3))
            rss = rss_bytes(relevo.serving_pid)
            if not first_rss and swaps.turns >= MEMORY_FROM * options.swaps:
                first_rss = rss
            console.print(
                f"{swaps.turns:5} promotions   p99 steady {pair[0].p99_ms:6.2f} ms, swapping {pair[1].p99_ms:6.2f} ms, "
                f"ratio {pair[1].p99_ms / pair[0].p99_ms:5.2f}   {pair[1].rate:7,.0f} requests/s   {rss / 2**20:.0f} MiB"
            )
        answers.stop()
        wrong_rows = answers.wrong_rows()
        result = {
            "swaps": swaps.done,
            "refused": swaps.refused,
            "problems": [*swaps.problems[:3], *answers.problems],
            **windows.summary(),
            "failed_requests": windows.failed() + answers.failed,
            "checked_in_the_log": len(answers.versions),
            "wrong_versions": windows.wrong() + answers.wrong_scores,
            "wrong_rows": wrong_rows,
            "rss_growth": round(rss_bytes(relevo.serving_pid) / max(first_rss, 1) - 1, 3),
        }
    print(json.dumps(result))
    bad = any(result[name] for name in ("problems", "failed_requests", "wrong_versions", "wrong_rows"))
    slow, grown = result["p99_ratio"] > MOST_RATIO, result["rss_growth"] >= MOST_GROWTH
    return 1 if bad or slow or grown or not answers.versions else 0


class Windows:
    """Pairs of windows under the same load, without swaps and with them."""

    def __init__(self, load: Any, think_ms: float, seconds: float) -> None:
        self._load, self._think_ms, self._seconds = load, think_ms, seconds
        self._steady: list[wrk.Load] = []
        self._swapping: list[wrk.Load] = []

    def pair(self, promoter: Any) -> tuple[wrk.Load, wrk.Load]:
        """One of each; every second pair begins with swaps, so that a drift of the machine favours neither."""
        steady_first = len(self._steady) % 2 == 0
        if steady_first:
            self._steady.append(self._load(self._think_ms, self._seconds))
        promoting = promoter()
        promoting.start()
        try:
            self._swapping.append(self._load(self._think_ms, self._seconds))
        finally:
            promoting.stop()
        if not steady_first:
            self._steady.append(self._load(self._think_ms, self._seconds))
        return self._steady[-1], self._swapping[-1]

    def summary(self) -> dict[str, Any]:
        """Figures over all windows: medians, and the median of the pairs' ratios."""
        ratio = median(after.p99_ms / before.p99_ms for before, after in zip(self._steady, self._swapping, strict=True))
        return {
            "requests": sum(found.requests for found in [*self._steady, *self._swapping]),
            "p99_ms": {
                "steady": median(found.p99_ms for found in self._steady),
                "swapping": median(found.p99_ms for found in self._swapping),
            },
            "p99_ratio": round(ratio, 3),
        }

    def failed(self) -> int:
        """Requests without a good answer."""
        return sum(found.errors for found in [*self._steady, *self._swapping])

    def wrong(self) -> int:
        """Answers with a score that is not that of the version they name."""
        return sum(found.wrong for found in [*self._steady, *self._swapping])


class Promoter(threading.Thread):
    """Promotes one version after the other until it is stopped."""

    def __init__(self, client: Client, swaps: Swaps, most: int, every_s: float) -> None:
        super().__init__(daemon=True)
        self._client, self._swaps, self._most, self._every_s = client, swaps, most, every_s
        self._ending = threading.Event()

    def run(self) -> None:
        """Until `stop`, so many turns, or the first that does not end as it must."""
        swaps = self._swaps
        while not self._ending.is_set() and swaps.turns < self._most and not swaps.problems:
            began = time.monotonic()
            try:
                self._turn()
            except Exception as error:  # noqa: BLE001 - told with the result
                swaps.problems.append(f"promotion {swaps.turns + 1}: {type(error).__name__}: {error}")
            self._ending.wait(max(0.0, self._every_s - (time.monotonic() - began)))

    def _turn(self) -> None:
        swaps = self._swaps
        if (swaps.turns + 1) % CORRUPT_EVERY == 0:
            try:
                self._client.promote(rows.NAME, CORRUPT)
            except Exception as error:
                if "cannot serve" not in str(error):
                    raise
                swaps.refused += 1
            else:
                swaps.problems.append("a damaged version was promoted")
            return
        target = swaps.live % GOOD + 1
        answer = self._client.promote(rows.NAME, target)
        if not (answer["changed"] and answer["applied"] and answer["live_version"] == target):
            swaps.problems.append(f"version {target} was promoted, and the answer is {answer}")
            return
        swaps.live = target
        swaps.done += 1

    def stop(self) -> None:
        """Let the promotion under way end."""
        self._ending.set()
        self.join()


class Answers(threading.Thread):
    """A client that keeps asking, compares each score, and keeps which version each answer names."""

    def __init__(self, relevo: stack.Stack, body: bytes, expected: Mapping[int, float]) -> None:
        super().__init__(daemon=True)
        self._relevo, self._body, self._expected = relevo, body, expected
        self._ending = threading.Event()
        self.versions: dict[str, tuple[int, float]] = {}
        """Version and score by request id, hex."""
        self.failed = 0
        self.wrong_scores = 0
        self.problems: list[str] = []

    def run(self) -> None:
        """Ask until `stop`."""
        try:
            self._ask()
        except Exception as error:  # noqa: BLE001 - told with the result: a checker that died has checked nothing
            self.problems.append(f"the checking client ended: {type(error).__name__}: {error}")

    def _ask(self) -> None:
        headers = {"Authorization": f"Bearer {self._relevo.key}", "Content-Type": "application/json"}
        with httpx.Client(headers=headers, timeout=20) as client:
            while not self._ending.wait(0.005):
                try:
                    answer = client.post(f"{self._relevo.serving}/predict", content=self._body)
                except httpx.TransportError:
                    self.failed += 1
                    continue
                if answer.status_code != httpx.codes.OK:
                    self.failed += 1
                    continue
                said = answer.json()
                version, (row,) = said["model_version"], said["predictions"]
                self.wrong_scores += not abs(row["score"] - self._expected[version]) <= TOLERANCE
                self.versions[row["prediction_id"][:32]] = version, row["score"]

    def stop(self) -> None:
        """End it."""
        self._ending.set()
        self.join()

    def wrong_rows(self) -> int:
        """Answers whose row of the log has another version or score, or does not come within `SHIPPED_S`."""
        deadline = time.monotonic() + SHIPPED_S
        while (wrong := self._wrong_now()) and time.monotonic() < deadline:
            time.sleep(0.5)
        return wrong

    def _wrong_now(self) -> int:
        with psycopg.connect(self._relevo.database_url) as connection:
            found = connection.execute(
                "select replace(request_id::text, '-', ''), version_number, scores[1] from prediction_requests "
                "where request_id = any(%s::uuid[])",
                [list(self.versions)],
            )
            logged = {request: (version, score) for request, version, score in found}
        return sum(logged.get(request) != answer for request, answer in self.versions.items())


def artifact(home: Path, digest: str) -> Path:
    """The file of an artifact of the stack."""
    return next(path for path in (home / "artifacts").rglob(f"*{digest}*") if path.is_file())


def score_of(model: Path, body: bytes) -> float:
    """What a file gives for the one row of a request, without serving."""
    (row,) = json.loads(body)["instances"]
    feeds = {name: np.array([row[name]], dtype=np.float32) for name in rows.FEATURES}
    return float(scoring.score(scoring.open_model(model.read_bytes(), threads=1), feeds)[0])


def check_apart(expected: Mapping[int, float]) -> None:
    """Raises SystemExit when a score does not tell which version gave it."""
    scores = sorted(expected.values())
    if any(after - before <= 10 * TOLERANCE for before, after in pairwise(scores)):
        raise SystemExit(f"the versions score the row too much alike to be told apart: {expected}")


def damage(path: Path) -> None:
    """Change a byte in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.chmod(0o600)
    path.write_bytes(data)


def rss_bytes(pid: int) -> int:
    """Resident memory of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    sys.exit(main())
