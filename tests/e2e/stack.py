"""A whole stack as a user has it: started by the installed command, asked over HTTP, stopped by the command."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psutil
import psycopg

from cli.stack import ports, strays
from cli.stack.home import Home

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
DEADLINE_S = 300.0
SERVICES = ("serving", "data", "trainer", "validator")
OURS = ("DATABASE_URL", "REDIS_URL", "RELEVO_", "SERVING_", "DATA_", "TRAINER_", "VALIDATOR_")
CYCLE_OVER = ("released", "held", "rejected", "failed", "cancelled")

Json = Any


def until(look: Callable[[], Any], what: str) -> Any:
    """Wait for something true, generously; what it was."""
    deadline = time.monotonic() + DEADLINE_S
    while not (found := look()):
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.1)
    return found


def free_base() -> int:
    """A base from which four ports are free."""
    found = ports.free_ports(avoid=())
    return next(port for port in found if all(ports.is_free(port + offset) for offset in range(4)))


def clean_environment() -> dict[str, str]:
    """The environment of this process without settings of the product."""
    return {name: value for name, value in os.environ.items() if not name.startswith(OURS)}


def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a program of the virtual environment from the root of the repository, without settings of whoever runs the tests."""
    return subprocess.run(
        [str(BIN / words[0]), *words[1:]],
        cwd=ROOT, env={**clean_environment(), **environment}, capture_output=True, text=True, timeout=DEADLINE_S, check=False,
    )  # fmt: skip


def left_of(home: Path) -> list[psutil.Process]:
    """Processes of the stack in this home that still run."""
    return strays.find(Home(home))


class Stack:
    """A running stack and the admin key of its `stack.json`."""

    def __init__(self, home: Path, base: int) -> None:
        self.home, self.base = home, base
        started = self.relevo("up", "--detach", "--port-base", str(base), TRAINER_MONITOR_S="2")
        assert started.returncode == 0, started.stderr
        self.description: dict[str, Any] = json.loads((home / "stack.json").read_text())
        self.parts = {name: psutil.Process(pid) for name, pid in self.description["pids"].items()}
        self.client = httpx.Client(
            headers={"Authorization": f"Bearer {self.description['admin_key']}"}, timeout=60, trust_env=False
        )

    def relevo(self, command: str, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run `relevo COMMAND --home HOME ...`."""
        return run("relevo", command, "--home", str(self.home), *words, **environment)

    def call(self, method: str, service: str, path: str, *, key: str | None = None, **options: Any) -> httpx.Response:
        """One request, by default with the admin key."""
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        return self.client.request(method, self.description[service] + path, headers=headers, **options)

    def get(self, service: str, path: str, **parameters: Any) -> Json:
        """The JSON of a GET that succeeds."""
        answer = self.call("GET", service, path, params=parameters)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def post(self, service: str, path: str, body: object = None) -> Json:
        """The JSON of a POST that succeeds."""
        answer = self.call("POST", service, path, json=body)
        assert answer.is_success, answer.text
        return answer.json()

    def send(self, pipeline: str, body: bytes, content_type: str) -> Json:
        """Send events; their verdicts."""
        path = f"/v1/pipelines/{pipeline}/events"
        answer = self.client.post(self.description["data"] + path, content=body, headers={"Content-Type": content_type})
        assert answer.status_code == 200, answer.text
        return answer.json()

    def cycle(self, pipeline: str, as_of: str) -> Json:
        """Start a cycle and wait until it is over."""
        path = f"/v1/pipelines/{pipeline}/cycles"
        started = self.post("trainer", path, {"as_of": as_of})

        def over() -> Json:
            now = self.get("trainer", f"{path}/{started['id']}")
            return now if now["state"] in CYCLE_OVER else None

        return until(over, f"the end of the cycle of {pipeline} as of {as_of}")

    def dataset(self, pipeline: str, number: int) -> Json:
        """One dataset version."""
        return self.get("data", f"/v1/pipelines/{pipeline}/datasets/{number}")

    def live(self, pipeline: str, version: int) -> None:
        """Wait until serving answers with this version."""
        path = f"/admin/models/{pipeline}"
        until(lambda: self.get("serving", path)["applied_version"] == version, f"version {version} of {pipeline}")

    def query(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """A look into the registry, at the address that serving itself finds in its environment."""
        address = self.parts["serving"].environ()["DATABASE_URL"]
        with psycopg.connect(address) as connection:
            return connection.execute(sql.encode(), parameters).fetchall()

    def down(self) -> None:
        """Stop it, and see that nothing of it is left but its data."""
        self.client.close()
        stopped = self.relevo("down")
        assert stopped.returncode == 0, stopped.stderr
        assert left_of(self.home) == []
        assert [name for name, process in self.parts.items() if strays.runs(process)] == []
        assert not (self.home / "stack.json").exists()
        assert (self.home / "postgres").is_dir()
