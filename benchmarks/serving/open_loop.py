"""A load that does not wait for answers: requests leave at random moments of a given rate, whatever became of those before.

A closed loop (wrk's) slows down with the server that it measures. Latencies count from the moment at which a request was due, so
that a late generator makes them longer, never shorter.
"""

import asyncio
import random
from collections import deque
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import uvloop

TIMEOUT_S = 30.0
OK = 200


@dataclass(frozen=True)
class Answer:
    """What became of one request."""

    due_s: float
    """When it was due, seconds from the beginning of the load."""
    took_s: float
    """From then to the last byte of the answer."""
    status: int
    """0: the connection broke, or nothing came within `TIMEOUT_S`."""


@dataclass
class Load:
    """What became of all."""

    seconds: float
    answers: list[Answer] = field(default_factory=list)
    unsent: int = 0
    """Due while all connections were busy."""
    lost: int = 0
    """Connections that the server ended."""

    def took_ms(self, *statuses: int) -> list[float]:
        """Latencies of the answers with one of these statuses, ascending."""
        return sorted(answer.took_s * 1e3 for answer in self.answers if answer.status in statuses)

    def rate(self, status: int = OK) -> float:
        """Answers of a status, a second."""
        return sum(answer.status == status for answer in self.answers) / self.seconds


def percentile(ascending: list[float], share: float) -> float:
    """NaN when there is none."""
    return ascending[min(len(ascending) - 1, int(share * len(ascending)))] if ascending else float("nan")


def request(url: str, body: bytes, key: str, **headers: str) -> bytes:
    """The bytes of a POST."""
    address = urlsplit(url)
    lines = [
        f"POST {address.path} HTTP/1.1", f"Host: {address.netloc}", f"Authorization: Bearer {key}",
        "Content-Type: application/json", f"Content-Length: {len(body)}",
        *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items()),
    ]  # fmt: skip
    return "\r\n".join([*lines, "", ""]).encode() + body


def run(url: str, message: bytes, *, per_s: float, seconds: float, connections: int, seed: int = 7) -> Load:
    """Send a message again and again, `per_s` times a second on average, over at most so many connections."""
    return uvloop.run(_run(url, message, per_s, seconds, connections, seed))


async def _run(url: str, message: bytes, per_s: float, seconds: float, connections: int, seed: int) -> Load:
    loop, draw = asyncio.get_running_loop(), random.Random(seed)
    address = urlsplit(url)
    host, port = address.hostname or "", address.port or 80
    load, free = Load(seconds), deque[_Connection]()
    opened: list[_Connection] = []
    opening: set[asyncio.Task[None]] = set()
    began_s = loop.time()

    async def open_one(due_s: float) -> None:
        try:
            _, made = await loop.create_connection(lambda: _Connection(load, free, began_s), host, port)
        except OSError:
            load.answers.append(Answer(due_s, loop.time() - began_s - due_s, 0))
            return
        opened.append(made)
        made.send(message, due_s)

    due_s = draw.expovariate(per_s)
    while due_s < seconds:
        await asyncio.sleep(max(0.0, due_s - (loop.time() - began_s)))
        while free and free[-1].closed:
            free.pop()
        if free:
            free.pop().send(message, due_s)
        elif len(opened) - load.lost + len(opening) < connections:
            task = loop.create_task(open_one(due_s))
            opening.add(task)
            task.add_done_callback(opening.discard)
        else:
            load.unsent += 1
        due_s += draw.expovariate(per_s)
    deadline_s = loop.time() + TIMEOUT_S
    while loop.time() < deadline_s and (opening or any(connection.busy for connection in opened)):  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    for connection in opened:
        connection.end()
    return load


class _Connection(asyncio.Protocol):
    """One request at a time."""

    def __init__(self, load: Load, free: "deque[_Connection]", began_s: float) -> None:
        self._load, self._free, self._began_s = load, free, began_s
        self._loop = asyncio.get_running_loop()
        self._transport: Any = None
        self._due_s = 0.0
        self._received = b""
        self.busy = self.closed = False

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def send(self, message: bytes, due_s: float) -> None:
        """Begin a request; timers may be a little early."""
        self._due_s = min(due_s, self._loop.time() - self._began_s)
        self._received, self.busy = b"", True
        self._transport.write(message)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, found, body = self._received.partition(b"\r\n\r\n")
        if not found:
            return
        _, _, rest = head.lower().partition(b"content-length: ")
        if len(body) >= int(rest.partition(b"\r\n")[0]):
            self._note(int(head[9:12]))
            self._free.append(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        self._load.lost += 1
        if self.busy:
            self._note(0)

    def end(self) -> None:
        """Close; a request without an answer counts as broken."""
        if self.busy:
            self._note(0)
        self._transport.abort()

    def _note(self, status: int) -> None:
        self.busy = False
        took_s = self._loop.time() - self._began_s - self._due_s
        self._load.answers.append(Answer(self._due_s, took_s, status))
