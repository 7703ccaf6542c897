"""The supervisor over small processes: order, readiness, restarts, giving up, stopping, and leaving nothing."""

import asyncio
import itertools
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

from cli.stack import child as children
from cli.stack import ports, probes
from cli.stack.child import Child
from cli.stack.decide import Phase, Wanted, Whole
from cli.stack.snapshot import Part, Snapshot
from cli.stack.supervisor import Supervisor

DEADLINE_S = 60.0
STAND_IN = (sys.executable, "-m", "tests.integration.cli.stand_in")
ENVIRONMENT = dict(os.environ)


class Run:
    """A supervisor at work, with all it published."""

    def __init__(self, parts: list[Child], logs: Path) -> None:
        self.seen: list[Snapshot] = [Snapshot(whole=Whole.STARTING, supervisor=os.getpid(), since=0)]
        self.supervisor = Supervisor(parts, logs, snapshot=self.seen[0], publish=self.seen.append)
        self.task = asyncio.create_task(self.supervisor.run())

    def part(self, name: str) -> Part:
        return next(part for part in self.seen[-1].parts if part.name == name)

    async def until(self, condition: Callable[[Snapshot], bool]) -> Snapshot:
        async with asyncio.timeout(DEADLINE_S):
            while not condition(self.seen[-1]):
                if self.task.done():
                    pytest.fail(f"the supervisor ended: {self.task.result()}")
                await asyncio.sleep(0.02)
        return self.seen[-1]

    async def stopped(self) -> Snapshot:
        self.supervisor.stop()
        return await asyncio.wait_for(asyncio.shield(self.task), DEADLINE_S)


@asynccontextmanager
async def running(parts: list[Child], logs: Path) -> AsyncIterator[Run]:
    run = Run(parts, logs)
    try:
        yield run
    finally:
        if not run.task.done():
            await run.stopped()


@pytest.fixture
def port() -> int:
    return next(ports.free_ports(avoid=()))


def service(port: int, *options: str, name: str = "service", needs: tuple[str, ...] = (), grace_s: float = 10) -> Child:
    return Child(
        Wanted(name, needs=needs, grace_s=grace_s),
        (*STAND_IN, str(port), *options),
        ENVIRONMENT,
        not_ready=probes.http(f"http://127.0.0.1:{port}/readyz"),
    )


def once(code: str, *, name: str = "once", needs: tuple[str, ...] = ()) -> Child:
    return Child(Wanted(name, needs=needs, once=True), (sys.executable, "-c", code), ENVIRONMENT)


def ready(snapshot: Snapshot) -> bool:
    return snapshot.whole is Whole.READY


async def test_parts_start_in_order_when_what_they_need_is_ready_and_stop_in_reverse(tmp_path: Path) -> None:
    first, last = itertools.islice(ports.free_ports(avoid=()), 2)
    gate = tmp_path / "gate"
    parts = [
        service(first, "--ready-file", str(gate), name="first"),
        once("pass", needs=("first",)),
        service(last, name="last", needs=("once",)),
    ]
    async with running(parts, tmp_path) as run:
        await run.until(lambda s: any("503: no ready file" in part.reason for part in s.parts))
        assert run.part("once").phase is Phase.WAITING
        gate.touch()
        await run.until(ready)
        final = await run.stopped()
    assert final.whole is Whole.STOPPED
    rows = [tuple(part.phase for part in snapshot.parts) for snapshot in run.seen[1:]]
    assert all(row[0] is Phase.READY for row in rows if row[1] is not Phase.WAITING and row[2] is Phase.WAITING)
    assert all(row[0] is Phase.READY for row in rows if row[2] is Phase.STOPPING)
    assert rows[-1] == (Phase.STOPPED, Phase.DONE, Phase.STOPPED)


async def test_what_dies_is_started_again_and_its_descendants_go_with_it(tmp_path: Path, port: int) -> None:
    async with running([service(port, "--child")], tmp_path) as run:
        await run.until(ready)
        before = run.part("service").pid
        assert before is not None
        children = psutil.Process(before).children(recursive=True)
        assert children
        os.kill(before, signal.SIGKILL)
        await run.until(lambda s: ready(s) and s.parts[0].restarts == 1)
        assert run.part("service").pid != before
        assert [s.whole for s in run.seen if s.whole is Whole.DEGRADED]
        wait_gone(children)


async def test_readiness_that_is_lost_and_found_is_seen_without_a_restart(tmp_path: Path, port: int) -> None:
    gate = tmp_path / "gate"
    gate.touch()
    async with running([service(port, "--ready-file", str(gate))], tmp_path) as run:
        pid = (await run.until(ready)).parts[0].pid
        gate.unlink()
        await run.until(lambda s: s.whole is Whole.DEGRADED)
        gate.touch()
        await run.until(ready)
        assert (run.part("service").pid, run.part("service").restarts) == (pid, 0)


async def test_a_part_that_never_comes_up_ends_the_start_and_is_explained(tmp_path: Path, port: int) -> None:
    broken = Child(Wanted("broken", needs=("service",)), (sys.executable, "-c", "import no_such_module"), ENVIRONMENT)
    broken = Child(**{**vars(broken), "not_ready": probes.http(f"http://127.0.0.1:{port + 1}/readyz")})
    run = Run([service(port), broken], tmp_path)
    final = await asyncio.wait_for(run.task, DEADLINE_S)
    assert final.whole is Whole.FAILED
    assert "broken did not come up: ended with exit status 1, 3 times in a row" in final.error
    assert "No module named 'no_such_module'" in final.error
    assert "pip install" in final.error
    assert [part.phase for part in final.parts] == [Phase.STOPPED, Phase.FAILED]
    assert final.pids == {"supervisor": os.getpid()}


async def test_a_failed_one_off_ends_the_start_at_once(tmp_path: Path) -> None:
    run = Run([once("import sys; sys.exit('the schema is of a later release')")], tmp_path)
    final = await asyncio.wait_for(run.task, DEADLINE_S)
    assert final.whole is Whole.FAILED
    assert (
        "once did not come up: ended with exit status 1. It wrote last:\n    the schema is of a later release"
        in final.error
    )


async def test_a_part_that_hangs_while_starting_is_given_up(tmp_path: Path, port: int) -> None:
    hangs = service(port, "--ready-file", str(tmp_path / "never"))
    hangs = Child(**{**vars(hangs), "wanted": Wanted("service", ready_within_s=1)})
    run = Run([hangs], tmp_path)
    final = await asyncio.wait_for(run.task, DEADLINE_S)
    assert final.whole is Whole.FAILED
    assert "not ready after 1 s" in final.error


async def test_a_program_that_is_not_there_is_explained(tmp_path: Path) -> None:
    run = Run([Child(Wanted("x", once=True), ("no-such-program",), ENVIRONMENT)], tmp_path)
    final = await asyncio.wait_for(run.task, DEADLINE_S)
    assert "cannot run no-such-program" in final.error


async def test_what_ignores_the_request_to_stop_is_killed(tmp_path: Path, port: int) -> None:
    async with running([service(port, "--deaf", "--child", grace_s=0.5)], tmp_path) as run:
        pid = (await run.until(ready)).parts[0].pid
        family = [psutil.Process(pid), *psutil.Process(pid).children()]
        final = await run.stopped()
    assert final.whole is Whole.STOPPED
    wait_gone(family)


async def test_a_second_request_to_stop_is_by_force(tmp_path: Path, port: int) -> None:
    async with running([service(port, "--deaf", grace_s=3600)], tmp_path) as run:
        await run.until(ready)
        run.supervisor.stop()
        await run.until(lambda s: s.whole is Whole.STOPPING)
        assert (await run.stopped()).whole is Whole.STOPPED


async def test_a_supervisor_that_breaks_takes_its_parts_along(tmp_path: Path, port: int) -> None:
    run = Run([service(port)], tmp_path)
    pid = (await run.until(ready)).parts[0].pid
    family = [psutil.Process(pid)]
    run.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run.task
    wait_gone(family)


async def test_a_supervisor_that_breaks_takes_in_the_ends_of_its_parts(
    tmp_path: Path, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when the system is slow to tell: else a handle is dropped whose process, for all Python knows, still runs."""
    started: list[asyncio.subprocess.Process] = []
    start, waitpid = children.start, os.waitpid

    async def noted(part: Child, log: Path) -> asyncio.subprocess.Process:
        started.append(await start(part, log))
        return started[-1]

    def slow(pid: int, options: int) -> tuple[int, int]:
        end = waitpid(pid, options)
        time.sleep(0.5)
        return end

    monkeypatch.setattr(children, "start", noted)
    monkeypatch.setattr(os, "waitpid", slow)
    run = Run([service(port)], tmp_path)
    await run.until(ready)
    run.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run.task
    assert [process.returncode for process in started] == [-signal.SIGKILL]


def wait_gone(processes: list[psutil.Process]) -> None:
    """Wait until none of them runs; a zombie that init has not yet collected does not."""
    deadline = time.monotonic() + DEADLINE_S
    while alive := [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]:
        assert time.monotonic() < deadline, alive
        time.sleep(0.02)
