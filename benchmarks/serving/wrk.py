"""Runs wrk, pinned to the load's core, and reads what it measured."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.serving import turns

SCRIPT = Path(__file__).with_name("wrk.lua")


@dataclass(frozen=True)
class Load:
    """One measured load."""

    requests: int
    """Whose answer came, whatever it was."""
    seconds: float
    errors: int
    refused: int
    """Of the errors, answers with a status of 400 or more."""
    p50_ms: float
    p99_ms: float
    max_ms: float
    wrong: int
    """Good answers with a score that is not that of the version they name; 0 where none was expected."""
    connections: int

    @property
    def answered(self) -> int:
        """Requests that were answered well."""
        return self.requests - self.refused

    @property
    def unheard(self) -> int:
        """Most requests that were sent and whose answer was not heard: at the end, and of connections that broke."""
        return self.connections + self.errors - self.refused

    @property
    def rate(self) -> float:
        """Requests a second."""
        return self.requests / self.seconds


def require_wrk() -> None:
    """Raises SystemExit with the cure when wrk is not installed."""
    if shutil.which("wrk") is None:
        raise SystemExit(
            "This benchmark makes its load with wrk, which is not on the PATH; install it (apt-get install wrk)."
        )


def run(
    url: str,
    body: bytes,
    *,
    key: str,
    connections: int,
    seconds: float,
    core: int,
    think_ms: float = 0,
    first: bool = False,
    json_bytes: int | None = None,
    expected: Mapping[int, float] | None = None,
    tolerance: float = 0,
    script: Path = SCRIPT,
) -> Load:
    """Load one address.

    Args:
        key: API key; empty for none.
        connections: kept open, each with one request at a time.
        core: CPU that wrk may use.
        think_ms: mean pause of a connection between two requests.
        first: whether wrk goes before all else on its core, where that is allowed: what it was late by would count as latency.
        script: what wrk runs; `body` is a file to it.
        json_bytes: length of the JSON that the body begins with, when binary data follows.
        expected: the score of the body's one row by version: every answer is compared, within the tolerance.
    """
    with tempfile.NamedTemporaryFile() as file:
        file.write(body)
        file.flush()
        environment = {
            **os.environ,
            "BODY": file.name,
            "API_KEY": key,
            "THINK_MS": str(think_ms),
            "EXPECTED": ",".join(f"{version}={score!r}" for version, score in (expected or {}).items()),
            "TOLERANCE": str(tolerance),
            "JSON_BYTES": "" if json_bytes is None else str(json_bytes),
        }
        command = [
            "taskset",
            "-c",
            str(core),
            sys.executable,
            "-m",
            turns.__name__,
            *([turns.FIRST] if first else []),
            "wrk",
            "-t1",
            f"-c{connections}",
            f"-d{max(1, round(seconds))}s",
            "--timeout",
            "20s",
            "-s",
            str(script),
            url,
        ]
        found = subprocess.run(
            command, env=environment, check=True, capture_output=True, text=True,
        )  # fmt: skip
    line = next((line for line in found.stdout.splitlines() if line.startswith("RESULT ")), None)
    if line is None:
        raise RuntimeError(f"wrk printed no result:\n{found.stdout}{found.stderr}")
    return Load(**json.loads(line.removeprefix("RESULT ")), connections=connections)
