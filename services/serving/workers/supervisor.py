"""The process before the workers: starts them, hands them connections, starts them again when they die, stops them, and knows the
metrics of all. It imports neither the app nor a model.
"""

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from dataclasses import dataclass, field

import structlog
from prometheus_client import REGISTRY

from services.serving.config import ServingSettings
from services.serving.server import CLOSE_WITHIN_S
from services.serving.workers import control, last_words, metrics
from services.serving.workers.choice import hangs, is_ready, restart_pause_s
from services.serving.workers.handover import Handover
from services.serving.workers.merging import Ledger, exposition, families
from shared.config import CommonSettings
from shared.observability.logging import configure_logging

log = structlog.stdlib.get_logger(__name__)

STARTUP_FAILURE = 3
"""As uvicorn ends when its app cannot start."""
TELL_WITHIN_S = 2.0
WATCH_S = 1.0
STOP_MARGIN_S = 10.0
SUPERVISOR = "supervisor"


@dataclass
class Slot:
    """One worker's place; processes in it follow each other."""

    number: int
    process: asyncio.subprocess.Process | None = None
    writer: asyncio.StreamWriter | None = None
    told: asyncio.Event = field(default_factory=asyncio.Event)
    started: bool = False
    reason: str = ""

    @property
    def name(self) -> str:
        """In the ledger."""
        return str(self.number)


def serve(host: str, port: int, settings: ServingSettings) -> int:
    """Answer on an address with `settings.workers` processes until SIGTERM or SIGINT.

    Returns:
        The exit status: 3 when the address is taken or no worker can start. After a signal the process ends by that signal.
    """
    common = CommonSettings()
    configure_logging(common.log_level, common.log_format, "serving")
    try:
        listener = bind(host, port)
    except OSError as error:
        log.error("the address cannot be used", host=host, port=port, error=str(error))
        return STARTUP_FAILURE
    with listener:
        log.info("starting the workers", workers=settings.workers, address=listener.getsockname()[:2])
        ended = asyncio.run(Supervisor(settings).run(listener))
    if ended is signal.SIGTERM or ended is signal.SIGINT:
        signal.signal(ended, signal.SIG_DFL)
        signal.raise_signal(ended)
    return ended


def bind(host: str, port: int) -> socket.socket:
    """A socket on the address that does not listen yet.

    Raises:
        OSError: the address is taken, or none of this machine's.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # accepted ones have it too
        listener.setblocking(False)
        listener.bind(address)
    except OSError:
        listener.close()
        raise
    return listener


class Supervisor:
    """One life of the service."""

    def __init__(self, settings: ServingSettings) -> None:
        self._settings = settings
        self._slots = [Slot(number) for number in range(settings.workers)]
        self._ledger = Ledger()
        self._asked: asyncio.Queue[tuple[Slot, asyncio.StreamWriter, int]] = asyncio.Queue()
        self._stopping = asyncio.Event()
        self._signals: list[signal.Signals] = []
        self._unable: set[int] = set()
        self._ever_started = False
        metrics.WORKERS.set(settings.workers)
        metrics.WORKERS_READY.set_function(self._ready)

    async def run(self, listener: socket.socket) -> int:
        """Until the end; the exit status, or the signal that ended it."""
        self._handover = Handover(listener, len(self._slots))
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number)
        beside = [loop.create_task(self._merge()), loop.create_task(self._watch())]
        try:
            await asyncio.gather(*(self._keep(slot) for slot in self._slots))
        finally:
            for task in beside:
                task.cancel()
            await asyncio.gather(*beside, return_exceptions=True)
            self._handover.close()
        if self._signals:
            return self._signals[0]
        log.error("no worker could start", reason="; ".join(sorted({slot.reason for slot in self._slots})))
        return STARTUP_FAILURE

    def _on_signal(self, number: signal.Signals) -> None:
        self._signals.append(number)
        if len(self._signals) == 1:
            log.info("stopping the workers", signal=number.name)
            self._stopping.set()
            self._send(signal.SIGTERM)
            self._handover.end()
            wait_s = self._settings.drain_s + CLOSE_WITHIN_S + self._settings.flush_s + STOP_MARGIN_S
            asyncio.get_running_loop().call_later(wait_s, self._send, signal.SIGKILL)
        else:  # asked twice: at once; what was answered is in the log, which the next process ships
            self._send(signal.SIGKILL)

    def _send(self, number: signal.Signals) -> None:
        for slot in self._slots:
            if slot.process is not None and slot.process.returncode is None:
                slot.process.send_signal(number)

    def _ready(self) -> int:
        now_s = time.monotonic()
        return sum(is_ready(load, now_s) for load in self._handover.loads)

    async def _watch(self) -> None:
        """Kill workers that hang: they would hold their clients for ever, and a probe from outside meets only the others."""
        while True:
            began_s = time.monotonic()
            await asyncio.sleep(WATCH_S)
            now_s = time.monotonic()
            if now_s - began_s > 2 * WATCH_S:
                continue  # held up itself: what was said meanwhile is not heard yet
            for slot, load in zip(self._slots, self._handover.loads, strict=True):
                if hangs(load, now_s, self._settings.worker_silent_s) and slot.process is not None:
                    log.error("a worker hangs; killing it", worker=slot.number, silent_s=round(now_s - load.heard_s))
                    with contextlib.suppress(ProcessLookupError):
                        slot.process.kill()

    async def _keep(self, slot: Slot) -> None:
        """Run a process in the slot, again and again."""
        pause_s = 0.0
        while not self._stopping.is_set():
            began_s = time.monotonic()
            status = await self._live(slot)
            if self._stopping.is_set():
                return
            if not slot.started:
                slot.reason = slot.reason or f"it ended with status {status} before it was up; its log tells why"
                self._unable.add(slot.number)
                if not self._ever_started and len(self._unable) == len(self._slots):
                    self._stopping.set()
                    return
            pause_s = restart_pause_s(pause_s, time.monotonic() - began_s)
            log.error(
                "a worker has ended; starting it again",
                worker=slot.number, status=status, reason=slot.reason or None, in_s=pause_s,
            )  # fmt: skip
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause_s)
            if not self._stopping.is_set():
                metrics.WORKER_RESTARTS.inc()

    async def _live(self, slot: Slot) -> int:
        """One process, from start to end; its exit status."""
        self._ledger.begin(slot.name)
        connections = self._handover.add(slot.number)
        ours, theirs = socket.socketpair()
        slot.started, slot.reason = False, ""
        memory = last_words.make()
        with connections, theirs:
            slot.process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "services.serving.workers.worker",
                f"--connections={connections.fileno()}", f"--control={theirs.fileno()}", f"--memory={memory}",
                f"--parent={os.getpid()}",
                pass_fds=(connections.fileno(), theirs.fileno(), memory),
                stdin=asyncio.subprocess.DEVNULL,
                process_group=0,  # Ctrl-C in a terminal is for this process, which stops the workers in its turn
            )  # fmt: skip
        if self._stopping.is_set():  # the signal came meanwhile
            slot.process.terminate()
        ours.setblocking(False)
        reader, slot.writer = await asyncio.open_unix_connection(sock=ours)
        try:
            await self._hear(slot, reader, slot.writer)
            slot.writer.close()  # if it lives and cannot be understood, it ends by this
            status = await slot.process.wait()
        finally:
            slot.writer = None
            self._handover.remove(slot.number)
            self._ledger.ended(slot.name, last_words.read(memory))
            os.close(memory)
            slot.told.set()
        return status

    async def _hear(self, slot: Slot, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while (message := await control.read(reader)) is not None:
            match message:
                case control.Told(told, moved, held, asked):
                    if not slot.started:
                        slot.started = self._ever_started = True
                        log.info("a worker is up", worker=slot.number)
                    self._ledger.tell(slot.name, told, moved, held)
                    if asked:
                        slot.told.set()
                case control.Collect(number):
                    self._asked.put_nowait((slot, writer, number))
                case control.Failed(reason):
                    slot.reason = reason

    async def _merge(self) -> None:
        """Answer those that ask for the metrics of all; who asks during a look gets the next one."""
        while True:
            asking = [await self._asked.get()]
            while not self._asked.empty():
                asking.append(self._asked.get_nowait())
            waited = []
            for slot in self._slots:
                if slot.writer is not None and slot.started:
                    slot.told.clear()
                    slot.writer.write(control.frame(control.Publish()))
                    waited.append(asyncio.ensure_future(slot.told.wait()))
            if waited:
                _, late = await asyncio.wait(waited, timeout=TELL_WITHIN_S)
                for wait in late:  # its event loop hangs: what it told last counts
                    wait.cancel()
            for slot, load in zip(self._slots, self._handover.loads, strict=True):
                metrics.WORKER_CONNECTIONS.labels(slot.number).set(load.open)
            self._ledger.tell(SUPERVISOR, families(REGISTRY), held=[])
            text = exposition(self._ledger.merged())
            for _, writer, number in asking:
                if not writer.is_closing():
                    writer.write(control.frame(control.Merged(number, text)))
