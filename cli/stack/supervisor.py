"""The supervisor: starts the parts in order, watches them, starts again what dies, and stops all in reverse order.

What to do is decided in `cli.stack.decide`; this file does it. One loop acts; tasks that wait for a process to end, or ask
a part whether it is ready, only change a state and wake the loop.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cli.stack import child as children
from cli.stack import decide
from cli.stack.child import Child
from cli.stack.decide import Phase, State, Whole
from cli.stack.errors import cure_for, last_lines
from cli.stack.snapshot import Part, Snapshot

ASK_WHILE_STARTING_S = 0.2
ASK_WHILE_READY_S = 2.0
LOOK_AT_LOGS_S = 5.0
REAP_WITHIN_S = 10.0
SHOWN_LINES = 15
CANNOT_START = 126


class Supervisor:
    """Runs `parts` until `stop()` is called or one of them never comes up.

    Args:
        parts: each after those it needs.
        logs: folder, which exists.
        publish: called with what is seen, at each change.
    """

    def __init__(
        self, parts: Sequence[Child], logs: Path, *, snapshot: Snapshot, publish: Callable[[Snapshot], None]
    ) -> None:
        self._parts = {part.name: part for part in parts}
        self._wanted = [part.wanted for part in parts]
        self._states = {part.name: State() for part in parts}
        self._running: dict[str, asyncio.subprocess.Process] = {}
        self._since: dict[str, float] = {}
        self._log_began: dict[str, int] = {}
        self._logs = logs
        self._tasks: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()
        self._stopping = False
        self._in_a_hurry = False
        self._error = ""
        self._broken: BaseException | None = None
        self._published = snapshot
        self._publish = publish

    def stop(self) -> None:
        """Begin to stop; called again, do it by force."""
        self._in_a_hurry = self._stopping
        self._stopping = True
        self._wake.set()

    async def run(self) -> Snapshot:
        """Run to the end.

        Returns:
            The last snapshot: STOPPED, or FAILED with the error. No part runs any more.
        """
        looked_at_logs = time.monotonic()
        try:
            while True:
                self._wake.clear()
                if self._broken is not None:
                    raise self._broken
                now = time.monotonic()
                self._give_up_what_takes_too_long(now)
                if self._stopping:
                    self._stop_next(now)
                else:
                    await self._start_next(now)
                self._tell()
                if self._published.whole in (Whole.STOPPED, Whole.FAILED):
                    return self._published
                if now - looked_at_logs >= LOOK_AT_LOGS_S:
                    looked_at_logs = now
                    self._rotate_logs()
                idle_s = decide.seconds_to_next(self._wanted, self._states, now, at_most=LOOK_AT_LOGS_S)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), idle_s)
        finally:
            left = list(self._running.values())
            for process in left:
                children.kill_group(process.pid)
            # Take in their ends: a process nobody waited for stays a zombie, and Python warns of its handle.
            ends = asyncio.gather(*(process.wait() for process in left))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(ends, REAP_WITHIN_S)
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _start_next(self, now: float) -> None:
        for name in decide.to_start(self._wanted, self._states, now):
            part, log = self._parts[name], self._logs / f"{name}.log"
            children.rotate(log)
            self._log_began[name] = log.stat().st_size if log.exists() else 0
            self._states[name] = decide.after_start(self._states[name], now)
            try:
                process = await children.start(part, log)
            except OSError as error:  # no memory, no process, no room for a log: as if it had died
                state = decide.after_exit(part.wanted, self._states[name], CANNOT_START, now)
                self._states[name] = replace(state, reason=f"cannot be started: {error}")
                continue
            self._running[name] = process
            self._since[name] = time.time()
            self._spawn(self._wait_for_end(part, process))
            if not part.wanted.once:
                self._spawn(self._ask_whether_ready(part, process))

    def _stop_next(self, now: float) -> None:
        while names := decide.to_stop(self._wanted, self._states):
            for name in names:
                self._states[name] = decide.after_stop(self._states[name], now)
                if (process := self._running.get(name)) is not None:
                    children.send(process.pid, self._parts[name].stop_signal)
        late = list(self._running) if self._in_a_hurry else decide.to_kill(self._wanted, self._states, now)
        for name in late:
            if (process := self._running.get(name)) is not None:
                children.kill_group(process.pid)

    def _give_up_what_takes_too_long(self, now: float) -> None:
        for wanted in self._wanted:
            self._states[wanted.name] = state = decide.after_wait(wanted, self._states[wanted.name], now)
            if state.phase is not Phase.FAILED:
                continue
            if (process := self._running.get(wanted.name)) is not None:
                children.kill_group(process.pid)
            if not self._error:
                self._error = self._explain(wanted.name, state)
                self._stopping = True

    def _explain(self, name: str, state: State) -> str:
        """Which part failed and why, what it wrote last, and the cure when it is known."""
        log = self._logs / f"{name}.log"
        lines = last_lines(log, SHOWN_LINES, since=self._log_began.get(name, 0))
        said = "\n".join(lines)
        advice = cure_for(said) or f"Its whole log is {log}."
        shown = "\n".join("    " + line for line in lines) or "    (it wrote nothing)"
        return f"{name} did not come up: {state.reason}. It wrote last:\n{shown}\n{advice}"

    async def _wait_for_end(self, part: Child, process: asyncio.subprocess.Process) -> None:
        code = await process.wait()
        children.kill_group(process.pid)  # what it may have left in its group
        del self._running[part.name]
        self._states[part.name] = decide.after_exit(part.wanted, self._states[part.name], code, time.monotonic())
        self._wake.set()

    async def _ask_whether_ready(self, part: Child, process: asyncio.subprocess.Process) -> None:
        while self._running.get(part.name) is process:
            reason = await part.not_ready() if part.not_ready else None
            if self._running.get(part.name) is not process:
                return
            before = self._states[part.name]
            after = decide.after_probe(before, reason, time.monotonic())
            if after != before:
                self._states[part.name] = after
                self._wake.set()
            await asyncio.sleep(ASK_WHILE_READY_S if after.phase is Phase.READY else ASK_WHILE_STARTING_S)

    def _tell(self) -> None:
        seen = replace(
            self._published,
            whole=decide.whole(self._states, stopping=self._stopping, running=bool(self._running)),
            note="",
            error=self._error,
            parts=tuple(self._part(name, state) for name, state in self._states.items()),
        )
        if seen != self._published:
            self._published = seen
            self._publish(seen)

    def _part(self, name: str, state: State) -> Part:
        process = self._running.get(name)
        return Part(
            name=name,
            phase=state.phase,
            pid=process.pid if process else None,
            restarts=state.restarts,
            since=self._since.get(name) if process else None,
            reason=state.reason,
        )

    def _rotate_logs(self) -> None:
        for name in self._parts:
            if children.rotate(self._logs / f"{name}.log"):
                self._log_began[name] = 0

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._after_task)

    def _after_task(self, task: asyncio.Task[None]) -> None:
        """A task that broke is a fault of this program: the loop raises it instead of watching with one eye shut."""
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._broken = error
            self._wake.set()
