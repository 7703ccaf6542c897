"""A head that came before is not parsed again, and nobody gains by it what he may not have."""

import asyncio

from fastapi import FastAPI

from shared.web.express import ExpressProtocol
from shared.web.raw_routes import MOST_HEADS
from tests.unit.shared.web.express.echo import DEADLINE_S, Connection, Echo, padded, request, serving


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
