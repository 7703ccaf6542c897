"""What the worker and the process before it tell each other beside connections: metrics, and why a start failed.

Messages in either direction are frames: four bytes of length, then a `Message` as msgpack.
"""

import asyncio
import itertools
import struct
from collections.abc import Callable

import msgspec
from prometheus_client import REGISTRY

from services.serving.workers.last_words import LastWords, moved
from services.serving.workers.merging import Counted, Family, Held, families
from shared.errors import Unavailable

MOST_BYTES = 64 * 2**20
ANSWER_WITHIN_S = 5.0

_LENGTH = struct.Struct(">I")


class Publish(msgspec.Struct, tag=True):
    """To a worker: tell your metrics."""


class Told(msgspec.Struct, tag=True):
    """From a worker: its metrics now."""

    families: list[Family]
    moved: list[Counted]
    """What they show of what its tallies counted."""
    held: Held | None
    """The versions it holds; None until it was ready."""
    asked: bool
    """Whether this answers `Publish`."""


class Collect(msgspec.Struct, tag=True):
    """From a worker: somebody asks it for the metrics of all."""

    number: int


class Merged(msgspec.Struct, tag=True):
    """To a worker: the metrics of all."""

    number: int
    text: bytes


class Failed(msgspec.Struct, tag=True):
    """From a worker: why it cannot start."""

    reason: str


Message = Publish | Told | Collect | Merged | Failed

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Message).decode


def frame(message: Message) -> bytes:
    """As it goes over the socket."""
    data = _encode(message)
    return _LENGTH.pack(len(data)) + data


async def read(reader: asyncio.StreamReader) -> Message | None:
    """The next message; None when the other side is gone."""
    try:
        (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
        if length > MOST_BYTES:
            return None
        return _decode(await reader.readexactly(length))
    except (asyncio.IncompleteReadError, ConnectionError, msgspec.DecodeError):
        return None


class Worker:
    """A worker's side."""

    def __init__(self, last_words: LastWords) -> None:
        self._last_words = last_words
        self.held: Callable[[], Held] | None = None
        """Tells the versions this process holds; to be set once it is ready."""
        self._writer: asyncio.StreamWriter | None = None
        self._numbers = itertools.count(1)
        self._publishing = asyncio.Lock()
        self._asked: dict[int, asyncio.Future[bytes]] = {}

    async def run(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer until the other side is gone."""
        self._writer = writer
        while (message := await read(reader)) is not None:
            match message:
                case Publish():
                    await self.publish(asked=True)
                case Merged(number, text):
                    if (waiting := self._asked.pop(number, None)) is not None and not waiting.done():
                        waiting.set_result(text)

    async def publish(self, *, asked: bool = False) -> None:
        """Tell this process's metrics."""
        async with self._publishing:
            # In a thread, as every scrape is: collecting takes milliseconds.
            told = await asyncio.to_thread(_collect)
            self._last_words.write()  # never less than what is told
            self._send(Told(*told, None if self.held is None else self.held(), asked))

    def fail(self, reason: str) -> None:
        """Tell why the start failed."""
        self._send(Failed(reason))

    async def exposition(self) -> bytes:
        """The metrics of all processes as one.

        Raises:
            Unavailable: the process that knows them does not answer.
        """
        number = next(self._numbers)
        waiting = self._asked[number] = asyncio.get_running_loop().create_future()
        self._send(Collect(number))
        try:
            return await asyncio.wait_for(waiting, ANSWER_WITHIN_S)
        except TimeoutError:
            raise Unavailable("The metrics of the other workers cannot be told. Try again later.") from None
        finally:
            self._asked.pop(number, None)

    def _send(self, message: Message) -> None:
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(frame(message))


def _collect() -> tuple[list[Family], list[Counted]]:
    return families(REGISTRY), moved()
