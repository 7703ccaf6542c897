"""The short way answers as the general way does, byte for byte, and takes only what it may."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI
from prometheus_client import REGISTRY
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from shared.contracts.scopes import Scope
from shared.errors import Conflict
from shared.web.auth import GuardedRouter
from shared.web.express import MOST_BYTES, ExpressProtocol
from shared.web.raw import Answer, Call, Reply, Waiting, raw
from shared.web.raw_routes import MOST_HEADS
from tests.support.waiting import until
from tests.unit.shared.web.conftest import Keys, build, make_settings

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


@pytest.fixture(autouse=True)
def keys_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """After each reading of the keys the first request with one goes the general way."""
    monkeypatch.setattr("shared.keyring.REFRESH_S", 3600.0)


@pytest.fixture
def echo() -> Echo:
    return Echo()


@pytest.fixture
def app(keys: Keys, echo: Echo, quiet_logging: list[Any]) -> FastAPI:
    settings = make_settings(body_limit_bytes=2 * MOST_BYTES, upload_limit_bytes=2 * MOST_BYTES, body_timeout_s=5)
    return build(keys, routers=[echo.router], settings=settings)


@pytest.fixture
def key(keys: Keys) -> str:
    return keys.add(Scope.PREDICT)


@pytest.fixture
async def port(app: FastAPI, key: str) -> AsyncIterator[int]:
    """Of a server with the short way, to which the key is known."""
    async with serving(app, ExpressProtocol) as (_, port):
        connection = await Connection.to(port)
        await connection.send(request(b"0", key))
        assert (await connection.answer())[0] == "HTTP/1.1 200 OK"
        await connection.close()
        yield port


@pytest.fixture
async def connection(port: int) -> AsyncIterator[Connection]:
    opened = await Connection.to(port)
    yield opened
    await opened.close()


CASES: dict[str, tuple[Callable[[str], list[bytes]], bool]] = {
    "plain": (lambda key: [request(b'{"a":1}', key)], True),
    "named": (lambda key: [request(b"1", key, "X-Request-Id: mine")], True),
    "badly named": (lambda key: [request(b"1", key, "X-Request-Id: a b")], True),
    "of a model": (lambda key: [request(b"1", key, path="/v1/models/trips/echo")], True),
    "with more than JSON": (lambda key: [request(b'"reply"', key)], True),
    "json of a kind": (lambda key: [request(b"1", key, kind="application/geo+json")], True),
    "json, spelled out": (lambda key: [request(b"1", key, kind="application/json; charset=utf-8")], True),
    "a conflict": (lambda key: [request(b'"conflict"', key, "X-Request-Id: mine")], True),
    "a bug": (lambda key: [request(b'"bug"', key)], True),
    "with care": (lambda key: [request(b'"careful"', key)], False),
    "in pieces": (lambda key: [request(b'{"a":1}', key)[:-3], b":1}"], False),
    "its head in pieces": (lambda key: [request(b"1", key)[:20], request(b"1", key)[20:]], True),
    "a path with a parameter": (lambda key: [request(b"1", key, path="/echo?x=1")], False),
    "an escaped path": (lambda key: [request(b"1", key, path="/v1/models/tr%69ps/echo")], False),
    "no such path": (lambda key: [request(b"1", key, path="/ech")], False),
    "another method": (lambda key: [request(b"1", key, method="PUT")], False),
    "a route without": (lambda key: [request(b"1", key, path="/slow")], False),
    "no body": (lambda key: [request(b"", key)], False),
    "an unknown key": (lambda key: [request(b"1", "rlv_x_y")], False),
    "another type": (lambda key: [request(b"1", key, kind="text/plain")], False),
    "a key given twice": (lambda key: [request(b"1", key, f"Authorization: Bearer {key}")], False),
    "of an old version": (lambda key: [request(b"1", key, version="1.0")], False),
    "the last": (lambda key: [request(b"1", key, "Connection: close")], False),
    "expecting": (lambda key: [request(b"1", key, "X-Other: 1", "Content-Encoding: gzip")], False),
    "over the limit": (lambda key: [request(b"1" * (2 * MOST_BYTES + 1), key)], False),
    "large": (lambda key: [request(b"1" * (MOST_BYTES + 1), key)], False),
    "a body like the end of a head": (lambda key: [request(b'"\r\n\r\n"', key)], True),
    "after a blank line": (lambda key: [b"\r\n" + request(b"1", key)], True),
    "a header folded": (lambda key: [request(b"1", key, "X-Other: 1", " 2")], False),
    "lines of another end": (lambda key: [request(b'"\r\n\r\n"', key).replace(b"\r\n", b"\n", 6)], False),
    "a length of many digits": (lambda key: [padded(request(b'"careful"', key), 19)], False),
    "not HTTP": (lambda key: [b"NONSENSE\r\n\r\n"], False),
}


PROTOCOLS = HttpToolsProtocol, ExpressProtocol


@pytest.mark.parametrize("case", CASES)
async def test_both_ways_answer_alike(app: FastAPI, echo: Echo, key: str, case: str) -> None:
    pieces, short = CASES[case]
    answers, counts = [], []
    for protocol in PROTOCOLS:
        async with serving(app, protocol) as (_, port):
            known = await Connection.to(port)
            await known.send(request(b"0", key))
            await known.answer()
            echo.taken.clear()
            before = counted()
            connection = await Connection.to(port)
            for time in (1, 2):  # the second time the head is known
                await connection.send(*pieces(key))
                status, headers, body = await connection.answer()
                answers.append((protocol, status, shape(headers), anonymous(body)))
                assert len(echo.taken) == (time if short and protocol is ExpressProtocol else 0)
                if headers.get("connection") == "close":
                    assert await connection.ended()
                    break
            counts.append({name: value - before.get(name, 0) for name, value in counted().items()})
            await connection.close()
            await known.close()
    general, express = ([answer for by, *answer in answers if by is protocol] for protocol in PROTOCOLS)
    assert general == express
    assert counts[0] == counts[1], "it is measured alike"


def counted() -> dict[tuple[Any, ...], float]:
    """Requests, sizes and numbers of durations by their labels."""
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for metric in REGISTRY.collect()
        if metric.name.startswith("http_")
        for sample in metric.samples
        if not sample.name.endswith(("_created", "_bucket")) and "duration" not in sample.name.replace("_count", "")
    }


def shape(headers: dict[str, str]) -> list[tuple[str, str]]:
    """Headers in any order, without what differs from answer to answer."""
    differs = {name: "" for name in ("date", "x-request-id") if headers.get(name, "mine") != "mine"}
    return sorted({**headers, **differs}.items())


def anonymous(body: bytes) -> bytes:
    return re.sub(rb'"request_id":"[0-9a-f]{32}"', b'"request_id":""', body)


async def test_requests_sent_at_once_are_answered_in_their_order(connection: Connection, key: str, echo: Echo) -> None:
    sent = [b"1", b'"later"', b'"careful"', b"2", b"3"]
    await connection.send(b"".join(request(body, key) for body in sent))
    assert (await connection.answer())[2] == b'{"model":"","sent":1}'
    answer_it = await echo.later.get()
    answer_it()
    for body in sent[1:]:
        assert (await connection.answer())[2] == b'{"model":"","sent":%b}' % body
    await connection.send(request(b"4", key))
    assert (await connection.answer())[2] == b'{"model":"","sent":4}'


async def test_a_refusal_while_more_waits_keeps_the_order(connection: Connection, key: str) -> None:
    await connection.send(b"".join(request(body, key) for body in (b'"conflict"', b"1", b'"bug"', b"2")))
    assert [(await connection.answer())[0].split()[1] for _ in range(4)] == ["409", "200", "500", "200"]


async def test_one_who_leaves_before_the_answer_harms_nobody(port: int, key: str, echo: Echo) -> None:
    leaver, other = await Connection.to(port), await Connection.to(port)
    await leaver.send(request(b'"later"', key))
    answer_it = await echo.later.get()
    await leaver.close()
    await asyncio.sleep(0.05)
    answer_it()
    await other.send(request(b"1", key))
    assert (await other.answer())[2] == b'{"model":"","sent":1}'
    await other.close()


async def test_a_revoked_key_is_refused_on_the_short_way_too(
    app: FastAPI, connection: Connection, keys: Keys, key: str, echo: Echo
) -> None:
    await connection.send(request(b"1", key))
    assert (await connection.answer())[0].endswith("200 OK")
    keys.revoke(key)
    app.state.keys.refresh()
    echo.taken.clear()
    await connection.send(request(b"1", key))
    assert (await connection.answer())[0].split()[1] == "401"
    assert not echo.taken


async def test_a_head_that_came_before_is_not_parsed_again(app: FastAPI, key: str, echo: Echo) -> None:
    parsed = 0

    class Counting(ExpressProtocol):
        def on_message_begin(self) -> None:
            nonlocal parsed
            parsed += 1
            super().on_message_begin()

    async with serving(app, Counting) as (_, port):
        first, other = await Connection.to(port), await Connection.to(port)

        async def told(connection: Connection, body: bytes, *pieces: bytes) -> int:
            before = parsed
            await connection.send(*(pieces or [request(body, key)]))
            assert (await connection.answer())[2] == b'{"model":"","sent":%b}' % body
            return parsed - before

        assert [await told(first, b"10"), await told(first, b"11"), await told(first, b"12")] == [1, 1, 0]
        assert await told(other, b"13") == 0, "whoever sent it"
        assert await told(first, b"123") == 1, "another length is another head"
        whole = request(b"14", key)
        assert await told(first, b"14", whole[:-1], whole[-1:]) == 1, "its body comes in pieces"
        assert await told(first, b"15") == 0
        await first.send(request(b"16", key) + request(b"17", key))
        assert [(await first.answer())[2][-3:-1] for _ in range(2)] == [b"16", b"17"]
        assert await told(first, b"18") == 0
        for connection in (first, other):
            await connection.close()


async def test_a_request_with_a_known_head_waits_for_the_one_before(
    connection: Connection, key: str, echo: Echo
) -> None:
    first, second = request(b'"later"', key), request(b'"after"', key)
    await connection.send(first)
    (await echo.later.get())()
    await connection.answer()
    await connection.send(first, second)
    answer_it = await echo.later.get()
    assert connection.nothing_came()
    answer_it()
    assert [(await connection.answer())[2][-8:-1] for _ in range(2)] == [b'"later"', b'"after"']


async def test_a_length_that_the_parser_reads_in_another_way_hides_no_second_request(
    connection: Connection, key: str, echo: Echo
) -> None:
    whole = padded(request(b"1" * 50, key), 19)
    for _ in range(2):
        await connection.send(whole)
        assert (await connection.answer())[2] == b'{"model":"","sent":%b}' % (b"1" * 50)
    hidden = request(b'"hidden"', key)
    await connection.send(whole[:-45], hidden[:45])
    assert (await connection.answer())[2].endswith(b'"sent":11111%b}' % hidden[:45])


async def test_an_empty_line_before_a_request_lends_nobody_its_key(
    app: FastAPI, port: int, connection: Connection, key: str, echo: Echo
) -> None:
    for _ in range(2):
        await connection.send(b"\r\n\r\n" + request(b"1", key))
        assert (await connection.answer())[0] == "HTTP/1.1 200 OK"
    stranger = await Connection.to(port)
    echo.taken.clear()
    await stranger.send(b"\r\n\r\n1")
    stranger.writer.write_eof()
    async with asyncio.timeout(DEADLINE_S):
        assert b"200 OK" not in await stranger.reader.read()
    assert not echo.taken
    await stranger.close()


async def test_what_follows_a_refusal_is_body_until_the_request_has_ended(
    connection: Connection, key: str, echo: Echo
) -> None:
    known = request(b"11", key)
    for _ in range(2):
        await connection.send(known)
        await connection.answer()
    echo.taken.clear()
    refused = request(b"1" * 10 + known, "rlv_x_y")
    await connection.send(refused[: -len(known)], known)
    assert (await connection.answer())[0].split()[1] == "401"
    assert not echo.taken


async def test_heads_that_are_kept_are_few_and_of_callers_let_in(app: FastAPI, port: int, key: str) -> None:
    connection = await Connection.to(port)
    heads = app.raw.heads  # type: ignore[attr-defined]
    for number in range(MOST_HEADS + 10):
        await connection.send(request(b"1", key, f"X-Other: {number}"))
        await connection.answer()
        assert len(heads) <= MOST_HEADS
    heads.clear()
    for line in ("X-Request-Id: mine", "Traceparent: 00-1-1-01", *(["\r\n".join(f"X-{n}: 1" for n in range(40))])):
        await connection.send(request(b"1", key, line))
        await connection.answer()
    await connection.send(request(b"1", "rlv_x_y"))
    await connection.answer()
    assert not heads
    await connection.close()


async def test_a_known_head_is_not_idle(app: FastAPI, key: str, echo: Echo) -> None:
    async with serving(app, ExpressProtocol) as (server, port):
        server.config.timeout_keep_alive = 1
        idle, busy = await Connection.to(port), await Connection.to(port)
        for opened in (idle, busy):
            for _ in range(2):
                await opened.send(request(b'"early"', key))
                await opened.answer()
        await busy.send(request(b'"later"', key))
        answer_it = await echo.later.get()
        assert await idle.ended()
        answer_it()
        assert (await busy.answer())[0] == "HTTP/1.1 200 OK"
        await idle.close()
        await busy.close()


async def test_a_server_that_ends_answers_what_it_has_taken(app: FastAPI, key: str, echo: Echo) -> None:
    async with serving(app, ExpressProtocol) as (server, port):
        connection, idle = await Connection.to(port), await Connection.to(port)
        for opened in (connection, idle):
            await opened.send(request(b"0", key))
            await opened.answer()
        await connection.send(request(b'"later"', key))
        answer_it = await echo.later.get()
        server.should_exit = True
        assert await idle.ended()
        answer_it()
        status, headers, _ = await connection.answer()
        assert (status, headers["connection"]) == ("HTTP/1.1 200 OK", "close")
        assert await connection.ended()
        await connection.close()
        await idle.close()


async def test_a_request_that_came_with_the_one_before_is_not_idle(app: FastAPI, key: str, echo: Echo) -> None:
    async with serving(app, ExpressProtocol) as (server, port):
        server.config.timeout_keep_alive = 1
        connection, idle = await Connection.to(port), await Connection.to(port)
        await connection.send(request(b"1", key))
        await connection.answer()
        await connection.send(request(b"2", key) + request(b'"later"', key))
        assert (await connection.answer())[2] == b'{"model":"","sent":2}'
        answer_it = await echo.later.get()
        await idle.send(request(b"3", key))
        await idle.answer()
        assert await idle.ended(), "by now the other would have ended too"
        answer_it()
        assert (await connection.answer())[2] == b'{"model":"","sent":"later"}'
        await connection.close()
        await idle.close()


async def test_an_idle_connection_is_closed_and_a_busy_one_is_not(app: FastAPI, key: str, echo: Echo) -> None:
    async with serving(app, ExpressProtocol) as (server, port):
        server.config.timeout_keep_alive = 1
        idle, busy = await Connection.to(port), await Connection.to(port)
        for opened in (idle, busy):
            await opened.send(request(b"0", key))
            await opened.answer()
        await busy.send(request(b'"later"', key))
        assert await idle.ended()
        (await echo.later.get())()
        assert (await busy.answer())[0] == "HTTP/1.1 200 OK"
        await idle.close()
        await busy.close()
