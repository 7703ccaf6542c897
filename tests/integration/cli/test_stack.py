"""A whole life of the stack as processes: real engines, small stand-ins for the services, the real commands around them."""

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest

from cli.stack import account, ports, postgres, strays
from cli.stack import home as homes
from cli.stack.home import Home

DEADLINE_S = 180.0
RELEVO = (sys.executable, "-m", "cli.main")
CLEAN = {name: value for name, value in os.environ.items() if name not in ("DATABASE_URL", "REDIS_URL", strays.MARK)}


def until(condition: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + DEADLINE_S
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.05)
    return value


def relevo(*words: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*RELEVO, *words],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
        env={**CLEAN, **(environment or {})},
    )


class Stack:
    """A supervisor in a process of its own."""

    def __init__(self, home: Path, port_base: int, **environment: str) -> None:
        self.home = Home(home)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.integration.cli.stand_in_stack", str(home), str(port_base)],
            env={**CLEAN, **environment}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def up(self) -> homes.Stack:
        def found() -> homes.Stack | None:
            assert self.process.poll() is None, self.process.communicate()[0]
            stack = homes.read_stack(self.home.root)
            return stack if stack and stack["pids"]["supervisor"] == self.process.pid else None

        stack: homes.Stack = until(found, "stack.json")
        return stack

    def status(self) -> dict[str, Any]:
        return json.loads(relevo("status", "--json", "--home", str(self.home.root)).stdout)  # type: ignore[no-any-return]

    def database_url(self) -> str:
        """Address of the engine, out of the environment of a part."""
        environment = psutil.Process(self.up()["pids"]["serving"]).environ()
        return str(environment["DATABASE_URL"])

    def end(self) -> None:
        try:
            self.process.terminate()
            self.process.communicate(timeout=DEADLINE_S)
        finally:
            self.process.kill()
            self.process.communicate()
            strays.end(strays.find(self.home))


@pytest.fixture
def base() -> int:
    """A base from which four ports are free."""
    found = ports.free_ports(avoid=())
    return next(port for port in found if all(ports.is_free(port + offset) for offset in range(4)))


@pytest.fixture(scope="module")
def initialised(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose database is made, to copy: making it is most of a first start."""
    home = Home(tmp_path_factory.mktemp("initialised"))
    secrets = homes.load_secrets(home)
    user = account.for_engine(home.root, postgres.programs() / "postgres")
    postgres.initialise(home.postgres, secrets.postgres_password, user, durable=False)
    return home.root


@pytest.fixture
def fresh(tmp_path: Path, base: int) -> Iterator[Stack]:
    """A stack in a home that is not there yet."""
    running = Stack(tmp_path / "home", base)
    yield running
    running.end()


@pytest.fixture
def stack(initialised: Path, tmp_path: Path, base: int) -> Iterator[Stack]:
    """A stack in a home that was used before."""
    running = Stack(shutil.copytree(initialised, tmp_path / "home"), base)
    yield running
    running.end()


def test_up_status_logs_down_and_nothing_is_left(fresh: Stack, base: int) -> None:
    stack, up = fresh, fresh.up()
    path = stack.home.stack
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert set(up) == {"serving", "data", "trainer", "validator", "admin_key", "pids"}
    assert (up["serving"], up["validator"]) == (f"http://127.0.0.1:{base}", f"http://127.0.0.1:{base + 3}")
    assert up["admin_key"].startswith("rlv_")
    assert set(up["pids"]) == {"supervisor", "postgres", "valkey", "serving", "worker"}
    family = [psutil.Process(pid) for pid in up["pids"].values()]
    family += [child for process in family for child in process.children(recursive=True)]

    shown = relevo("status", "--home", str(stack.home.root))
    assert shown.returncode == 0
    assert "serving" in shown.stdout
    status = stack.status()
    assert status["state"] == "ready"
    assert [part["name"] for part in status["parts"]] == ["postgres", "valkey", "serving", "worker"]
    assert all(part["ready"] and part["pid"] and part["uptime_s"] >= 0 for part in status["parts"])

    assert "stand-in listens" in relevo("logs", "serving", "--home", str(stack.home.root)).stdout
    assert "serving  | stand-in listens" in relevo("logs", "--home", str(stack.home.root)).stdout
    unknown = relevo("logs", "nothing", "--home", str(stack.home.root))
    assert unknown.returncode == 1
    assert "There are: postgres, serving" in unknown.stderr

    second = relevo("up", "--detach", "--home", str(stack.home.root), "--port-base", str(base))
    assert second.returncode == 1
    assert "already runs" in second.stderr
    assert homes.read_stack(stack.home.root) == up

    down = relevo("down", "--home", str(stack.home.root))
    assert down.returncode == 0, down.stderr
    assert "The data stays" in down.stdout
    assert stack.process.wait(DEADLINE_S) == 0
    assert not [process for process in family if running(process)]
    assert strays.find(stack.home) == []
    assert not path.exists()
    assert relevo("status", "--home", str(stack.home.root)).returncode == 1
    again = relevo("down", "--home", str(stack.home.root))
    assert (again.returncode, "Nothing runs" in again.stdout) == (0, True)


def test_what_is_killed_comes_back_with_its_data(stack: Stack) -> None:
    before = stack.up()["pids"]
    with psycopg.connect(stack.database_url(), autocommit=True) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 7 AS n")
    for name in ("postgres", "valkey", "serving"):
        os.kill(before[name], signal.SIGKILL)

    def back() -> dict[str, int] | None:
        status = stack.status()
        restarted = {part["name"]: part["restarts"] for part in status["parts"]}
        renewed = homes.read_stack(stack.home.root)
        if status["state"] != "ready" or renewed is None or restarted["postgres"] == 0:
            return None
        return renewed["pids"]

    after = until(back, "the parts to come back")
    assert all(after[name] != before[name] for name in ("postgres", "valkey", "serving"))
    assert after["worker"] == before["worker"]
    with psycopg.connect(stack.database_url()) as connection:
        assert connection.execute("SELECT n FROM kept").fetchall() == [(7,)]


def test_a_killed_supervisor_leaves_nothing_that_the_next_start_does_not_end(stack: Stack, base: int) -> None:
    pids = stack.up()["pids"]
    family = {name: psutil.Process(pid) for name, pid in pids.items()}
    grandchildren = family["worker"].children()
    assert grandchildren
    stack.process.kill()
    stack.process.wait(DEADLINE_S)
    until(lambda: not any(running(process) for process in family.values()), "the kernel to end the parts")

    # What a part had started itself is beyond the kernel's reach: it is found by its mark.
    assert set(strays.find(stack.home)) == set(grandchildren)
    again = Stack(stack.home.root, base)
    try:
        again.up()
        assert not [process for process in grandchildren if running(process)]
    finally:
        again.end()


def test_down_after_a_killed_supervisor_ends_what_it_left(stack: Stack) -> None:
    worker = psutil.Process(stack.up()["pids"]["worker"])
    grandchildren = worker.children()
    assert len(grandchildren) == 2
    stack.process.kill()
    stack.process.wait(DEADLINE_S)
    down = relevo("down", "--home", str(stack.home.root))
    assert down.returncode == 0, down.stderr
    assert not [process for process in grandchildren if running(process)]
    assert not stack.home.stack.exists()


def test_the_users_own_servers_are_used(stack: Stack, tmp_path: Path) -> None:
    mine = stack.database_url()
    other = next(ports.free_ports(avoid=()))
    borrowing = Stack(tmp_path / "other", other, DATABASE_URL=mine)
    try:
        assert set(borrowing.up()["pids"]) == {"supervisor", "valkey", "serving", "worker"}
        assert borrowing.database_url() == mine
        assert not borrowing.home.postgres.exists()
    finally:
        borrowing.end()


def test_a_taken_port_is_told_and_nothing_is_left(stack: Stack, base: int, tmp_path: Path) -> None:
    stack.up()
    home = tmp_path / "second"
    refused = relevo("up", "--detach", "--home", str(home), "--port-base", str(base - 1))
    assert refused.returncode == 1
    assert f"Port {base}, for data, is in use" in refused.stderr
    assert "--port-base" in refused.stderr
    assert strays.find(Home(home)) == []
    assert not (home / "stack.json").exists()
    assert homes.holder(Home(home)) is None


def test_a_half_initialised_home_is_told(tmp_path: Path, base: int) -> None:
    home = Home(tmp_path)
    homes.load_secrets(home)
    home.postgres.mkdir()
    (home.postgres / "PG_VERSION").write_text("18\n")
    refused = relevo("up", "--detach", "--home", str(tmp_path), "--port-base", str(base))
    assert refused.returncode == 1
    assert "not a whole PostgreSQL data folder" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_home_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    refused = relevo("up", "--detach", "--home", str(tmp_path / "file" / "home"))
    assert (refused.returncode, "is not a folder" in refused.stderr) == (1, True)
    refused = relevo("up", "--detach", "--home", str(tmp_path / "absent"), "--port-base", "70000")
    assert (refused.returncode, refused.stderr.startswith("--port-base 70000 does not leave room")) == (1, True)
    assert relevo("down", "--home", str(tmp_path / "absent")).returncode == 0
    assert not (tmp_path / "absent").exists()


def running(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
