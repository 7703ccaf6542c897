"""The short way answers as the general way does, byte for byte, and takes only what it may."""

import asyncio
import re
from collections.abc import Callable
from typing import Any

import pytest
from fastapi import FastAPI
from prometheus_client import REGISTRY
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from shared.web.express import MOST_BYTES, ExpressProtocol
from tests.unit.shared.web.conftest import Keys
from tests.unit.shared.web.express.echo import Connection, Echo, padded, request, serving

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
