"""Hot swaps under load: what they cost the requests beside them, and whether every answer is of the version it says.

    python -m benchmarks.serving.swaps [--swaps 1000] [--every-ms 100] [--load 0.5]

Three good versions take turns, so that each swap loads a file that is not in memory; every tenth promotion names a version whose
file is damaged and must be refused while the one before goes on answering. Windows with swaps and without alternate under the same
load (wrk, at a share of the peak), and a client beside it keeps the version of each of its answers, to compare with the log.

Last line: `{"swaps", "refused", "failed_requests", "wrong_versions", "p99_ms": {"steady", "swapping"}, "p99_ratio", "rss_growth"}`.
"""

import argparse
import json
import os
import signal
import tempfile
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import httpx
import psycopg
from rich.console import Console

from benchmarks.serving import rows, stack, wrk
from cli.addresses import of_stack
from cli.client import Client
from cli.stack.ports import free_ports

CONNECTIONS = 16
GOOD = 3
CORRUPT_EVERY = 10
MEMORY_FROM = 0.1
"""Memory is compared with that after the first tenth of the swaps: caches and allocator pools have filled by then."""


@dataclass
class Swaps:
    """What became of the promotions."""

    done: int = 0
    refused: int = 0
    problems: list[str] = field(default_factory=list)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--swaps", type=int, default=1000)
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
        with console.status("Starting the stack and releasing four versions"):
            relevo = life.enter_context(
                stack.running(
                    home, stack.free_base(free_ports(())), rows.PIPELINE, rows.training_events(datetime.now(UTC)),
                    serving_core=serving_core, other_core=load_core,
                )
            )  # fmt: skip
            client = life.enter_context(Client(of_stack(home)))
            for _ in range(GOOD):
                stack.release(client, rows.NAME)
            damage(home, next(iter(client.versions(rows.NAME)))["digest"])
        body = rows.request_body(1)

        def load(think_ms: float, seconds: float) -> wrk.Load:
            return wrk.run(
                f"{relevo.serving}/predict", body, key=relevo.key, connections=CONNECTIONS, seconds=seconds, core=load_core,
                think_ms=think_ms,
            )  # fmt: skip

        peak = load(0, 3).rate
        think_ms = CONNECTIONS / (options.load * peak) * 1e3
        swaps, answers = Swaps(), Answers(relevo)
        answers.start()
        steady: list[wrk.Load] = []
        swapping: list[wrk.Load] = []
        first_rss = 0
        while swaps.done + swaps.refused < options.swaps and not swaps.problems:
            steady.append(load(think_ms, options.window_s))
            ending = threading.Event()
            promoter = threading.Thread(
                target=promote, args=(client, swaps, ending, options.swaps, options.every_ms / 1e3)
            )
            promoter.start()
            swapping.append(load(think_ms, options.window_s))
            ending.set()
            promoter.join()
            if not first_rss and swaps.done + swaps.refused >= MEMORY_FROM * options.swaps:
                first_rss = rss_bytes(relevo.serving_pid)
            console.print(
                f"{swaps.done + swaps.refused:5} promotions   p99 steady {steady[-1].p99_ms:6.2f} ms, "
                f"swapping {swapping[-1].p99_ms:6.2f} ms   "
                f"{swapping[-1].rate:7,.0f} requests/s   {rss_bytes(relevo.serving_pid) / 2**20:.0f} MiB"
            )
        answers.stop()
        stack.drain(relevo, relevo.metric("relevo_serving_predictions_total"))
        ratio = median(after.p99_ms / before.p99_ms for before, after in zip(steady, swapping, strict=True))
        result = {
            "swaps": swaps.done,
            "refused": swaps.refused,
            "problems": swaps.problems[:3],
            "failed_requests": sum(found.errors for found in [*steady, *swapping]) + answers.failed,
            "checked_answers": len(answers.versions),
            "wrong_versions": answers.wrong(),
            "p99_ms": {
                "steady": median(found.p99_ms for found in steady),
                "swapping": median(found.p99_ms for found in swapping),
            },
            "p99_ratio": round(ratio, 3),
            "rss_growth": round(rss_bytes(relevo.serving_pid) / max(first_rss, 1) - 1, 3),
        }
        print(json.dumps(result))


class Answers(threading.Thread):
    """A client that keeps asking, and keeps which version each answer names."""

    def __init__(self, relevo: stack.Stack) -> None:
        super().__init__(daemon=True)
        self._relevo = relevo
        self._ending = threading.Event()
        self.versions: dict[str, int] = {}
        """By request id, hex."""
        self.failed = 0

    def run(self) -> None:
        """Ask until `stop`."""
        body = rows.request_body(1)
        headers = {"Authorization": f"Bearer {self._relevo.key}", "Content-Type": "application/json"}
        with httpx.Client(headers=headers, timeout=20) as client:
            while not self._ending.wait(0.005):
                answer = client.post(f"{self._relevo.serving}/predict", content=body)
                if answer.status_code != httpx.codes.OK:
                    self.failed += 1
                    continue
                said = answer.json()
                self.versions[said["predictions"][0]["prediction_id"][:32]] = said["model_version"]

    def stop(self) -> None:
        """End it."""
        self._ending.set()
        self.join()

    def wrong(self) -> int:
        """Answers whose log row is missing or names another version."""
        with psycopg.connect(self._relevo.database_url) as connection:
            logged: dict[str, int] = dict(
                connection.execute(
                    "select replace(request_id::text, '-', ''), version_number from prediction_requests "
                    "where request_id = any(%s::uuid[])",
                    [list(self.versions)],
                ).fetchall()
            )
        return sum(logged.get(request) != version for request, version in self.versions.items())


def promote(client: Client, swaps: Swaps, ending: threading.Event, most: int, every_s: float) -> None:
    """Promote one version after the other until `ending`."""
    while not ending.is_set() and swaps.done + swaps.refused < most:
        began = time.monotonic()
        turn = swaps.done + swaps.refused + 1
        corrupt = turn % CORRUPT_EVERY == 0
        version = GOOD + 1 if corrupt else turn % GOOD + 1
        try:
            client.promote(rows.NAME, version)
        except Exception as error:  # noqa: BLE001 - a refusal is expected of one kind only, and told of any other
            if corrupt and "cannot serve" in str(error):
                swaps.refused += 1
            else:
                swaps.problems.append(f"version {version}: {error}")
                return
        else:
            if corrupt:
                swaps.problems.append("a damaged version was promoted")
                return
            swaps.done += 1
        ending.wait(max(0.0, every_s - (time.monotonic() - began)))


def damage(home: Path, digest: str) -> None:
    """Change a byte in the middle of an artifact's file."""
    path = next(path for path in (home / "artifacts").rglob(f"*{digest.removeprefix('sha256:')}*") if path.is_file())
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.chmod(0o600)
    path.write_bytes(data)


def rss_bytes(pid: int) -> int:
    """Resident memory of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main()
