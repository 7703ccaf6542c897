"""Connections go from the process that accepts them to the workers as file descriptors over Unix sockets.

To a worker: one byte with one descriptor for each connection. From it: bytes that say what it did (`Word`). When the sending
direction ends, everything that was handed over has been read.
"""

import asyncio
import errno
import socket
import time
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

from services.serving.workers.choice import Load, Standing, choose

log = structlog.stdlib.get_logger(__name__)

ACCEPT_AT_ONCE = 64
"""Connections accepted before others get a turn on the event loop."""
PAUSE_S = 0.05
"""When no worker can take a connection, or descriptors run out, until the next try."""
CLOSED, READY, UNREADY, CLOSING = b"cruq"
"""From a worker: a connection has ended; its readiness, at least once a second; it takes no more."""
CONNECTION = b"+"
LAST_WORD_WITHIN_S = 2.0
EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Handover:
    """Accepts on one listening socket and hands each connection to the worker with the fewest. On the event loop alone."""

    def __init__(self, listener: socket.socket, workers: int, *, backlog: int = 2048) -> None:
        self.loads = [Load() for _ in range(workers)]
        self._listener = listener
        self._backlog = backlog
        self._channels: dict[int, socket.socket] = {}
        self._loop = asyncio.get_running_loop()
        self._waiting: socket.socket | None = None
        self._given = 0
        self._listening = self._reading = self._ending = self._closed = False

    def add(self, number: int) -> socket.socket:
        """A new worker of that number; returns the end of its channel that it must inherit, to be closed here once it has."""
        ours, theirs = socket.socketpair()
        self.join(number, ours)
        return theirs

    def join(self, number: int, channel: socket.socket) -> None:
        """A new worker of that number is at the other end of the channel."""
        channel.setblocking(False)
        self._channels[number] = channel
        self.loads[number] = Load()
        self._loop.add_reader(channel, self._hear, number, channel)

    def remove(self, number: int) -> None:
        """The worker of that number is gone."""
        self.loads[number].standing = Standing.AWAY
        self.loads[number].open = 0
        channel = self._channels.pop(number, None)
        if channel is not None:
            self._loop.remove_reader(channel)
            channel.close()
        self._look()

    def end(self) -> None:
        """Accept as long as somebody takes, then refuse: so that clients look elsewhere while the log is shipped."""
        self._ending = True
        self._look()

    def close(self) -> None:
        """Accept nothing any more."""
        self._closed = True
        self._read(False)
        self._listener.close()
        if self._waiting is not None:
            self._waiting.close()
            self._waiting = None

    def _look(self) -> None:
        """Accept while somebody takes; the first time, begin to listen: before, clients are refused instead of kept waiting."""
        takers = any(load.standing is not Standing.AWAY for load in self.loads)
        if takers and not self._listening and not self._closed:
            self._listening = True
            self._listener.listen(self._backlog)
        if self._ending and not takers:
            self.close()
        self._read(takers)
        if takers and self._waiting is not None:
            self._accept()

    def _read(self, wanted: bool) -> None:
        wanted = wanted and not self._closed
        if wanted != self._reading:
            self._reading = wanted
            if wanted:
                self._loop.add_reader(self._listener, self._accept)
            else:
                self._loop.remove_reader(self._listener)

    def _pause(self) -> None:
        self._read(False)
        self._loop.call_later(PAUSE_S, self._look)

    def _accept(self) -> None:
        for _ in range(ACCEPT_AT_ONCE):
            connection, self._waiting = self._waiting, None
            if connection is None:
                try:
                    connection, _ = self._listener.accept()
                except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                    return
                except OSError as error:
                    if error.errno not in EXHAUSTED:
                        raise
                    log.error("connections cannot be accepted; trying again", error=str(error))
                    self._pause()
                    return
            if not self._give(connection):
                self._waiting = connection
                self._pause()
                return
            connection.close()

    def _give(self, connection: socket.socket) -> bool:
        for number in choose(self.loads, time.monotonic()):
            try:
                socket.send_fds(self._channels[number], [CONNECTION], [connection.fileno()])
            except OSError:
                continue  # its channel is full, or it has just ended: the next one
            self._given += 1
            load = self.loads[number]
            load.open += 1
            load.given = self._given
            return True
        return False

    def _hear(self, number: int, channel: socket.socket) -> None:
        load = self.loads[number]
        try:
            words = channel.recv(4096)
        except BlockingIOError:
            return
        except OSError:
            words = b""
        if not words:  # it is gone; its end is told to the supervisor
            self._loop.remove_reader(channel)
            load.standing = Standing.AWAY
            self._look()
            return
        load.heard_s = time.monotonic()
        load.open -= words.count(CLOSED)
        if CLOSING in words:
            load.standing = Standing.AWAY
            channel.shutdown(socket.SHUT_WR)
        elif (last := max(words.rfind(READY), words.rfind(UNREADY))) >= 0:
            load.standing = Standing.READY if words[last] == READY else Standing.UNREADY
        self._look()


class Intake:
    """A worker's end: makes each connection one of its server's, and tells what became of it. On the event loop alone."""

    def __init__(self, channel: socket.socket, make_protocol: Callable[[], asyncio.Protocol]) -> None:
        """Begin to take.

        Args:
            make_protocol: makes what speaks on a connection; it must call `closed` when the connection is lost.
        """
        channel.setblocking(False)
        self._channel = channel
        self._make_protocol = make_protocol
        self._loop = asyncio.get_running_loop()
        self._ended = asyncio.Event()
        self._untold = bytearray()
        self._closing = False
        self._making: set[asyncio.Task[None]] = set()
        self._loop.add_reader(channel, self._take)

    def tell(self, word: int) -> None:
        """Say one of the words to the process that accepts; nothing of readiness after it was told that this one closes."""
        if self._closing and word in (READY, UNREADY):
            return
        self._untold.append(word)
        try:
            sent = self._channel.send(self._untold)
        except OSError:  # full for a moment, and told with the next word; or nobody is there
            return
        del self._untold[:sent]

    def closed(self) -> None:
        """A connection was lost."""
        self.tell(CLOSED)

    async def finish(self) -> None:
        """Take what was handed over already, and nothing more."""
        self.tell(CLOSING)
        self._closing = True
        try:
            await asyncio.wait_for(self._ended.wait(), LAST_WORD_WITHIN_S)
        except TimeoutError:
            log.warning("the process that accepts connections does not answer")
        self._loop.remove_reader(self._channel)
        if self._making:
            await asyncio.wait(self._making)

    def _take(self) -> None:
        while True:
            try:
                byte, descriptors, _, _ = socket.recv_fds(self._channel, 1, 1)
            except BlockingIOError:
                return
            except OSError:
                byte, descriptors = b"", []
            if not byte:
                self._loop.remove_reader(self._channel)
                self._ended.set()
                return
            if not descriptors:  # this process has as many open as it may: the kernel has closed the connection
                log.error("a connection was lost: too many files are open")
                self.closed()
                continue
            connection = socket.socket(fileno=descriptors[0])
            connection.setblocking(False)
            self._start(self._make(connection))

    def _start(self, making: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(making)
        self._making.add(task)
        task.add_done_callback(self._making.discard)

    async def _make(self, connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._make_protocol, connection)
        except OSError:  # the client has left meanwhile
            connection.close()
            self.closed()
