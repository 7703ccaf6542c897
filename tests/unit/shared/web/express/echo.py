"""Routes that give the body back, with a short way, and a client's end of a connection to them."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import uvicorn
from fastapi import FastAPI

from shared.contracts.scopes import Scope
from shared.errors import Conflict
from shared.web.auth import GuardedRouter
from shared.web.raw import Answer, Call, Reply, Waiting, raw
from tests.support.waiting import until

DEADLINE_S = 60


class Echo:
    """Routes that give the body back, and what came to them on the short way."""

    def __init__(self) -> None:
        self.taken: list[bytes] = []
        self.later: asyncio.Queue[Callable[[], None]] = asyncio.Queue()
        self.router = GuardedRouter()

        def express(call: Call, waiting: Waiting) -> bool:
            if call.body == b'"careful"':
                return False
            self.taken.append(call.body)
            try:
                answer = answered(call)
            except Conflict as error:
                waiting.refuse(error)
                return True
            if call.body == b'"later"':
                self.later.put_nowait(lambda: waiting.answer(answer))
            else:
                waiting.answer(answer)
            return True

        @raw(self.router, "/echo", scope=Scope.PREDICT, express=express)
        async def echo(call: Call) -> Answer:
            """Give the body back."""
            return answered(call)

        @raw(self.router, "/v1/models/{p}/echo", scope=Scope.PREDICT, express=express)
        async def echo_for(call: Call) -> Answer:
            """Give the body back."""
            return answered(call)

        @raw(self.router, "/slow", scope=Scope.PREDICT)
        async def slow(call: Call) -> Answer:
            """A route without a short way."""
            return call.body


def answered(call: Call) -> Answer:
    if call.body == b'"conflict"':
        raise Conflict("It moved.")
    if call.body == b'"bug"':
        raise ZeroDivisionError("secret detail")
    if call.body == b'"reply"':
        return Reply(b"1,2", b"text/csv", ((b"x-rows", b"2"),))
    return b'{"model":"%b","sent":%b}' % (call.path.get("p", "").encode(), call.body)


@contextlib.asynccontextmanager
async def serving(app: FastAPI, protocol: type[asyncio.Protocol]) -> AsyncIterator[tuple[uvicorn.Server, int]]:
    config = uvicorn.Config(
        app, host="127.0.0.1", port=0, http=protocol, loop="asyncio", access_log=False, proxy_headers=False,
        server_header=False, log_config=None, timeout_keep_alive=30,
    )  # fmt: skip
    server = uvicorn.Server(config)
    with contextlib.suppress(KeyboardInterrupt):
        task = asyncio.create_task(server._serve())
        await asyncio.to_thread(until, lambda: server.started, "the server has started")
        try:
            yield server, server.servers[0].sockets[0].getsockname()[1]
        finally:
            server.should_exit = True
            await task


class Connection:
    """A client's end, byte by byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def to(cls, port: int) -> "Connection":
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def send(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.writer.write(piece)
            await self.writer.drain()
            await asyncio.sleep(0.02 if len(pieces) > 1 else 0)

    async def answer(self) -> tuple[str, dict[str, str], bytes]:
        """Status line, headers and body."""
        async with asyncio.timeout(DEADLINE_S):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            headers = dict(line.split(": ", 1) for line in head[1:] if line)
            return head[0], headers, await self.reader.readexactly(int(headers["content-length"]))

    def nothing_came(self) -> bool:
        """Whether there is nothing to read yet."""
        return not self.reader._buffer  # type: ignore[attr-defined]

    async def ended(self) -> bool:
        """Whether the server ends it, with or without having read all that was sent."""
        try:
            async with asyncio.timeout(DEADLINE_S):
                return await self.reader.read(1) == b""
        except ConnectionError:
            return True

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()


def request(
    body: bytes, key: str, *lines: str, path: str = "/echo", kind: str = "application/json", method: str = "POST",
    version: str = "1.1",
) -> bytes:  # fmt: skip
    head = [
        f"{method} {path} HTTP/{version}", "Host: test", f"Authorization: Bearer {key}", f"Content-Type: {kind}",
        f"Content-Length: {len(body)}", *lines,
    ]  # fmt: skip
    return "\r\n".join([*head, "", ""]).encode() + body


def padded(whole: bytes, zeros: int) -> bytes:
    """The same request, its length written with zeros before it."""
    return whole.replace(b"Content-Length: ", b"Content-Length: " + b"0" * zeros)
