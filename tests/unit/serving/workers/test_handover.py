"""Connections as file descriptors: every one reaches a worker, is counted until it ends, and none is left when a worker closes."""

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Callable

import pytest

from services.serving.workers import handover
from services.serving.workers.choice import Standing
from services.serving.workers.handover import READY, UNREADY, Handover, Intake

DEADLINE_S = 30


class Echo(asyncio.Protocol):
    """Answers with its worker's number."""

    def __init__(self, number: int, lost: Callable[[], None]) -> None:
        self._number, self._lost = number, lost

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._transport.write(data + str(self._number).encode())

    def connection_lost(self, error: Exception | None) -> None:
        self._lost()


class World:
    """The hand-over and its workers, in one event loop."""

    def __init__(self, workers: int) -> None:
        self.listener = socket.socket()
        self.listener.setblocking(False)
        self.listener.bind(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.handover = Handover(self.listener, workers)
        self.channels: dict[int, socket.socket] = {}
        self.intakes: dict[int, Intake] = {}
        self.clients: list[asyncio.StreamWriter] = []

    def worker(self, number: int, word: int = READY) -> None:
        """Start one."""
        self.channels[number] = self.handover.add(number)
        self.intakes[number] = intake = Intake(self.channels[number], lambda: Echo(number, intake.closed))
        intake.tell(word)

    def kill(self, number: int) -> None:
        """End one as the kernel does."""
        asyncio.get_running_loop().remove_reader(self.channels[number])
        self.channels[number].close()
        self.handover.remove(number)

    async def ask(self) -> int:
        """A connection's worker, by a request on it; the connection stays."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self.clients.append(writer)
        writer.write(b"?")
        return int((await asyncio.wait_for(reader.readexactly(2), DEADLINE_S))[1:])

    def open(self) -> list[int]:
        """Connections of each worker as the hand-over counts them."""
        return [load.open for load in self.handover.loads]


async def until(true: Callable[[], bool]) -> None:
    """Wait for a condition."""
    deadline_s = time.monotonic() + DEADLINE_S
    while not true():
        assert time.monotonic() < deadline_s, "waited in vain"
        await asyncio.sleep(0.005)


@contextlib.asynccontextmanager
async def world(workers: int) -> AsyncIterator[World]:
    """With that many places, none taken."""
    made = World(workers)
    try:
        yield made
    finally:
        for client in made.clients:
            client.close()
        await asyncio.gather(*(client.wait_closed() for client in made.clients), return_exceptions=True)
        made.handover.close()
        for number, channel in made.channels.items():
            if channel.fileno() >= 0:
                made.kill(number)


@pytest.mark.parametrize(("workers", "connections"), [(2, 16), (4, 16), (2, 64), (4, 64)])
async def test_kept_connections_are_shared_evenly(workers: int, connections: int) -> None:
    async with world(workers) as here:
        for number in range(workers):
            here.worker(number)
        await until(lambda: all(load.standing is Standing.READY for load in here.handover.loads))
        await asyncio.gather(*(here.ask() for _ in range(connections)))
        assert here.open() == [connections // workers] * workers


async def test_closed_connections_are_given_to_the_one_that_lost_them() -> None:
    async with world(2) as here:
        here.worker(0)
        here.worker(1)
        await until(lambda: all(load.standing is Standing.READY for load in here.handover.loads))
        numbers = [await here.ask() for _ in range(8)]
        for client, number in zip(here.clients, numbers, strict=True):
            if number == 0:
                client.close()
        await until(lambda: here.open() == [0, 4])
        assert [await here.ask() for _ in range(4)] == [0] * 4


async def test_nobody_listens_before_a_worker_is_up_and_ready_ones_come_first() -> None:
    async with world(2) as here:
        with pytest.raises(ConnectionRefusedError):
            await here.ask()
        here.worker(0, UNREADY)
        await until(lambda: here.handover.loads[0].standing is Standing.UNREADY)
        assert await here.ask() == 0, "an unready one answers for itself while there is no other"
        here.worker(1)
        await until(lambda: here.handover.loads[1].standing is Standing.READY)
        assert [await here.ask() for _ in range(3)] == [1, 1, 1]
        here.intakes[0].tell(READY)
        await until(lambda: here.handover.loads[0].standing is Standing.READY)
        assert [await here.ask() for _ in range(2)] == [0, 0]


async def test_a_dead_workers_place_is_taken_by_the_next_and_clients_wait_meanwhile() -> None:
    async with world(1) as here:
        here.worker(0)
        await until(lambda: here.handover.loads[0].standing is Standing.READY)
        assert await here.ask() == 0
        here.kill(0)
        assert here.open() == [0]
        waiting = asyncio.create_task(here.ask())
        await until(lambda: len(here.clients) == 2)
        here.worker(0)
        assert await waiting == 0
        await until(lambda: here.open() == [1])


async def test_one_that_closes_has_taken_all_that_it_was_given() -> None:
    async with world(2) as here:
        here.worker(0)
        here.worker(1)
        await until(lambda: all(load.standing is Standing.READY for load in here.handover.loads))
        asking = [asyncio.create_task(here.ask()) for _ in range(20)]
        await until(lambda: len(here.clients) == 20)
        await here.intakes[0].finish()
        assert here.handover.loads[0].standing is Standing.AWAY
        answers = await asyncio.gather(*asking)
        assert answers.count(0) == here.handover.loads[0].open
        assert await here.ask() == 1


async def test_at_the_end_the_last_one_that_closes_has_clients_refused() -> None:
    async with world(2) as here:
        here.worker(0)
        here.worker(1)
        await until(lambda: all(load.standing is Standing.READY for load in here.handover.loads))
        here.handover.end()
        assert await here.ask() in (0, 1), "it drains: connections are still taken"
        await here.intakes[0].finish()
        assert await here.ask() == 1
        await here.intakes[1].finish()
        here.intakes[1].tell(READY)  # a look that was under way
        with pytest.raises(ConnectionRefusedError):
            await here.ask()


async def test_a_channel_that_is_full_is_passed_by(monkeypatch: pytest.MonkeyPatch) -> None:
    send = socket.send_fds
    full = True

    def send_fds(channel: socket.socket, data: list[bytes], descriptors: list[int]) -> int:
        if full:
            raise BlockingIOError
        return send(channel, data, descriptors)

    monkeypatch.setattr(handover.socket, "send_fds", send_fds)
    async with world(2) as here:
        here.worker(0)
        here.worker(1)
        await until(lambda: all(load.standing is Standing.READY for load in here.handover.loads))
        asking = asyncio.create_task(here.ask())
        await until(lambda: here.handover._waiting is not None)
        full = False
        assert await asking in (0, 1)
