"""One of several processes of the service, `python -m services.serving.workers.worker ...`, started by the supervisor and gone
with it.

It listens nowhere: its connections are handed to it (`handover`). All else is as in a process of its own.
"""

import argparse
import asyncio
import contextlib
import ctypes
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI

from services.serving.app import create_app
from services.serving.server import Server, make_config
from services.serving.workers.control import Worker
from services.serving.workers.handover import READY, UNREADY, Intake
from services.serving.workers.last_words import LastWords
from services.serving.workers.merging import Held

PR_SET_PDEATHSIG = 1
UNTIL_READY_S, LOOK_S = 0.1, 1.0
"""Between two looks at the own readiness: before the first good one, and after."""
PUBLISH_EVERY_S = 5.0
WRITE_EVERY_S = 0.02
"""How much of its counting a worker that is killed takes along."""


class HandedServer(Server):
    """The server for connections that another process has accepted."""

    def __init__(
        self, app: FastAPI, connections: socket.socket, told: socket.socket, control: Worker, words: LastWords
    ) -> None:
        super().__init__(make_config(app))
        self._app = app
        self._connections = connections
        self._told = told
        self._control = control
        self._last_words = words
        self._written = 0
        self._intake: Intake | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the app, then take connections."""
        reader, writer = await asyncio.open_unix_connection(sock=self._told)
        self._begin(self._listen(reader, writer))
        await super().startup(sockets=[])
        protocol = self._protocol()
        self._intake = Intake(self._connections, protocol)
        self._begin(self._tell(self._intake))
        self._write()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no more, finish what is under way, stop the app."""
        if self._intake is not None:
            await self._intake.finish()
        await super().shutdown(sockets=[])
        await self._control.publish()

    def _write(self) -> None:
        requests = self.server_state.total_requests
        if requests != self._written:
            self._written = requests
            self._last_words.write()
        asyncio.get_running_loop().call_later(WRITE_EVERY_S, self._write)

    def _protocol(self) -> Any:
        config, state, app_state = self.config, self.server_state, self.lifespan.state
        loop, lost = asyncio.get_running_loop(), self._lost

        class Handed(config.http_protocol_class):  # type: ignore[name-defined]
            """The configured protocol, which tells when its connection has ended. Nothing is added to a request."""

            def connection_lost(self, exc: Exception | None) -> None:
                super().connection_lost(exc)
                lost()

        return lambda: Handed(config=config, server_state=state, app_state=app_state, _loop=loop)

    def _lost(self) -> None:
        if self._intake is not None:
            self._intake.closed()

    def _held(self) -> Held:
        return [(model, str(version)) for model, version in self._app.state.serving.slots.held()]

    def _begin(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _listen(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._control.run(reader, writer)
        os.kill(os.getpid(), signal.SIGTERM)  # nobody hands over connections any more

    async def _tell(self, intake: Intake) -> None:
        probe = self._app.state.readiness
        pause_s, published_s = UNTIL_READY_S, 0.0
        loop = asyncio.get_running_loop()
        while not self.should_exit:
            ready = await probe.ready()
            intake.tell(READY if ready else UNREADY)
            if ready:
                pause_s = LOOK_S
                self._control.held = self._held
            if loop.time() - published_s >= PUBLISH_EVERY_S:
                published_s = loop.time()
                await self._control.publish()
            await asyncio.sleep(pause_s)


def main() -> None:
    """Serve what is handed over until SIGTERM, or until the process that started this one is gone."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--connections", type=int, required=True, help="descriptor of a socket: see `handover`")
    parser.add_argument("--control", type=int, required=True, help="descriptor of a socket: see `control`")
    parser.add_argument("--memory", type=int, required=True, help="descriptor of memory: see `last_words`")
    parser.add_argument("--parent", type=int, required=True)
    options = parser.parse_args()
    _end_with(options.parent)
    words = LastWords(options.memory)
    control = Worker(words)
    told = socket.socket(fileno=options.control)
    told.setblocking(False)
    app = create_app(exposition=control.exposition)
    app.router.lifespan_context = _telling(app.router.lifespan_context, control)
    HandedServer(app, socket.socket(fileno=options.connections), told, control, words).run()


def _telling(lifespan: Any, control: Worker) -> Any:
    """The lifespan, with its failure told."""

    @contextlib.asynccontextmanager
    async def told(app: FastAPI) -> AsyncIterator[Any]:
        started = False
        try:
            async with lifespan(app) as state:
                started = True
                yield state
        except Exception as error:
            if not started:
                control.fail(f"{type(error).__name__}: {error}")
            raise

    return told


def _end_with(parent: int) -> None:
    """Have the kernel send SIGTERM when the parent is gone, however busy this process is then; elsewhere than on Linux its
    sockets tell."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(1)


if __name__ == "__main__":
    main()
