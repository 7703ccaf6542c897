"""How evenly three ways to accept spread connections over processes, and what a connection costs.

    python -m benchmarks.serving.accepting [--rounds 20]

`shared`: all processes accept from one listening socket. `reuseport`: each from its own (SO_REUSEPORT). `handed`: serving's way,
one process accepts and hands each connection to the process with the fewest. The processes answer a line with their number and do
nothing else. Evenness: that many connections are opened one after the other and kept; the busiest process's number to the mean,
median and worst of the rounds. Cost: connections of one request each; processor time of all processes for one, with their start.

Last line: `{"busiest_to_mean": {way: {"16x2": [median, worst], ...}}, "connection_us": {way: ...}}`.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import resource
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable
from statistics import median
from typing import Any

import uvloop

from services.serving.workers.handover import READY, Handover, Intake

WAYS = ("shared", "reuseport", "handed")
CASES = ((16, 2), (64, 2), (16, 4), (64, 4))
ONCE = 2000
"""Connections of one request."""


class Answer(asyncio.Protocol):
    """Answers whatever comes with its process's number."""

    def __init__(self, number: int, lost: Callable[[], None]) -> None:
        self._answer = f"{number}\n".encode()
        self._lost = lost

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport

    def data_received(self, data: bytes) -> None:
        self._transport.write(self._answer)

    def connection_lost(self, error: Exception | None) -> None:
        self._lost()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    even: dict[str, dict[str, list[float]]] = {way: {} for way in WAYS}
    cost_us: dict[str, float] = {}
    for connections, workers in CASES:
        for way in WAYS:
            with Processes(way, workers) as processes:
                found = [busiest(processes.port, connections, workers) for _ in range(options.rounds)]
            even[way][f"{connections}x{workers}"] = [round(median(found), 2), round(max(found), 2)]
            print(
                f"{connections:3} connections, {workers} processes, {way:9}: {median(found):.2f} (worst {max(found):.2f})"
            )
    for way in WAYS:
        with Processes(way, 2) as processes:
            for _ in range(ONCE):
                ask(processes.port).close()
        cost_us[way] = round(processes.cpu_s / ONCE * 1e6, 1)
        print(f"a connection of one request, {way:9}: {cost_us[way]:.0f} us of processor time")
    print(json.dumps({"busiest_to_mean": even, "connection_us": cost_us}))


def ask(port: int) -> socket.socket:
    """A connection on which one request was answered."""
    connection = socket.create_connection(("127.0.0.1", port))
    connection.sendall(b"?")
    return connection


def busiest(port: int, connections: int, workers: int) -> float:
    """The most connections of a process, to the mean."""
    kept = [ask(port) for _ in range(connections)]
    counts = Counter(connection.recv(16) for connection in kept)
    for connection in kept:
        connection.close()
    time.sleep(0.02)
    return max(counts.values()) / (connections / workers)


class Processes:
    """The processes of one way, while the block lasts."""

    def __init__(self, way: str, workers: int) -> None:
        self._listeners = [listener()]
        self.port = self._listeners[0].getsockname()[1]
        if way == "reuseport":
            self._listeners += [listener(self.port) for _ in range(workers - 1)]
        pairs = [socket.socketpair() for _ in range(workers)] if way == "handed" else []
        fork = multiprocessing.get_context("fork").Process
        self._processes = [
            fork(target=taking, args=(number, pairs[number][1]))
            if pairs
            else fork(target=accepting, args=(number, self._listeners[number % len(self._listeners)]))
            for number in range(workers)
        ]
        if pairs:
            self._processes.append(fork(target=handing, args=(self._listeners[0], [ours for ours, _ in pairs])))
        self.cpu_s = 0.0

    def __enter__(self) -> "Processes":
        for process in self._processes:
            process.start()
        for used in self._listeners:
            used.close()
        time.sleep(0.3)
        self._before = children_s()
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            assert process.pid is not None
            os.kill(process.pid, signal.SIGKILL)
            process.join()
        self.cpu_s = children_s() - self._before


def children_s() -> float:
    """Processor time of the children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def listener(port: int = 0) -> socket.socket:
    """A listening socket whose port others may share."""
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    made.setblocking(False)
    made.bind(("127.0.0.1", port))
    made.listen(2048)
    return made


def accepting(number: int, own: socket.socket) -> None:
    """One process that accepts itself."""

    async def serve() -> None:
        server = await asyncio.get_running_loop().create_server(lambda: Answer(number, lambda: None), sock=own)
        await server.serve_forever()

    uvloop.run(serve())


def taking(number: int, channel: socket.socket) -> None:
    """One process that connections are handed to."""

    async def serve() -> None:
        intake = Intake(channel, lambda: Answer(number, intake.closed))
        intake.tell(READY)
        await asyncio.Event().wait()

    uvloop.run(serve())


def handing(own: socket.socket, channels: list[socket.socket]) -> None:
    """The process that accepts for the others."""

    async def serve() -> None:
        handover = Handover(own, len(channels))
        for number, channel in enumerate(channels):
            handover.join(number, channel)
        await asyncio.Event().wait()

    asyncio.run(serve())


if __name__ == "__main__":
    main()
