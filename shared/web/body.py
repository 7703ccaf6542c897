"""Reading request bodies safely: bounded in size, time and depth, strict JSON only. Used after authentication, never before."""

import asyncio
import types
from collections.abc import Coroutine, Generator
from typing import Any

import orjson
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message, Receive, Scope, Send

from shared.errors import Invalid, Malformed, TooLarge, TooSlow

MOST_DIGITS = 19
MAX_DEPTH = 64
"""Deeper JSON is no request of ours, and would exhaust the recursion of whatever walks it."""


def bounded(scope: Scope, receive: Receive, *, limit_bytes: int, timeout_s: float) -> Receive:
    """Wrap `receive` so that a body over the limit raises TooLarge and one that dawdles raises TooSlow.

    Content-Length is believed when it is too large, and counted after when it is not. The deadline is for the whole body and begins
    with the first read; once the body is complete, waiting for a disconnect is not limited.
    """
    declared = content_length(scope)
    too_large = _too_large(limit_bytes)
    seen = 0
    deadline: float | None = None
    complete = False

    async def receive_bounded() -> Message:
        nonlocal seen, deadline, complete
        if complete:
            return await receive()
        if declared > limit_bytes:
            raise too_large
        if deadline is None:
            deadline = asyncio.get_running_loop().time() + timeout_s
        try:
            async with asyncio.timeout_at(deadline):
                message = await receive()
        except TimeoutError:
            raise TooSlow(f"The body did not arrive within {timeout_s:g} s.") from None
        if message["type"] == "http.request":
            seen += len(message.get("body", b""))
            complete = not message.get("more_body", False)
            if seen > limit_bytes:
                raise too_large
        return message

    return receive_bounded


async def read_body(receive: Receive, declared_bytes: int, *, limit_bytes: int, timeout_s: float) -> bytes:
    """The whole body. One that has arrived already, as a small one has when its request is handled, costs no timer.

    Args:
        declared_bytes: what its header says of its length; 0 when that says nothing.

    Raises:
        TooLarge: it is, or says it is, over the limit.
        TooSlow: it did not arrive in time.
        ClientDisconnect: the client has left.
    """
    if declared_bytes > limit_bytes:
        raise _too_large(limit_bytes)
    first: Coroutine[Any, Any, Message] = receive()  # type: ignore[assignment]
    parts: list[bytes] = []
    size = 0
    try:
        waiting_for = first.send(None)
    except StopIteration as done:
        message: Message = done.value
        if message["type"] == "http.request" and not message.get("more_body"):
            whole: bytes = message.get("body", b"")
            if len(whole) > limit_bytes:
                raise _too_large(limit_bytes) from None
            return whole
        pending: Any = _at_once(message)
    else:
        pending = _resumed(first, waiting_for)
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                message = await pending
                if message["type"] != "http.request":
                    raise ClientDisconnect
                parts.append(message.get("body", b""))
                size += len(parts[-1])
                if size > limit_bytes:
                    raise _too_large(limit_bytes)
                if not message.get("more_body"):
                    return b"".join(parts)
                pending = receive()
    except TimeoutError:
        raise TooSlow(f"The body did not arrive within {timeout_s:g} s.") from None


def content_length(scope: Scope) -> int:
    """What the request says of its body's length, bytes; 0 when it does not, or says no number."""
    return next((as_length(value) for name, value in scope["headers"] if name == b"content-length"), 0)


def as_length(value: bytes) -> int:
    """What a Content-Length header says, bytes; 0 when it is no number, or one of more digits than any length has."""
    return int(value) if value.isdigit() and len(value) <= MOST_DIGITS else 0


def _too_large(limit_bytes: int) -> TooLarge:
    return TooLarge(f"The body is over the limit of {limit_bytes} bytes.")


async def _at_once(message: Message) -> Message:
    return message


@types.coroutine
def _resumed(coroutine: Coroutine[Any, Any, Message], waiting_for: Any) -> Generator[Any, Any, Message]:
    """Go on with a coroutine that was run up to what it waits for."""
    try:
        while True:
            try:
                sent = yield waiting_for
            except BaseException as error:  # noqa: BLE001 - a cancellation, most likely: the coroutine's to meet
                waiting_for = coroutine.throw(error)
            else:
                waiting_for = coroutine.send(sent)
    except StopIteration as done:
        message: Message = done.value
        return message


class StrictRequest(Request):
    """A request whose `json()` takes JSON as RFC 8259 has it, and nothing that PostgreSQL or a model cannot hold."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        super().__init__(scope, receive, send)

    @property
    def body_read(self) -> bytes:
        """The body, if it was read before the endpoint ran (always so for a route with a body model); else empty."""
        return getattr(self, "_body", b"")

    async def json(self) -> Any:
        """The parsed body.

        Raises:
            Malformed: not UTF-8, not JSON (NaN and Infinity are not), or nested too deeply.
            Invalid: a string holds NUL.
        """
        if not hasattr(self, "_json"):
            self._json = strict_json(await self.body())
        return self._json


def strict_json(body: bytes) -> Any:
    """Parse one JSON document; integers beyond 64 bits become floats, which an integer field then refuses.

    Raises:
        Malformed: not UTF-8, not JSON (NaN and Infinity are not), or nested too deeply.
        Invalid: a string holds NUL.
    """
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Malformed(
            f"The body is not valid JSON at line {error.lineno}, column {error.colno}: {error.msg.split(':')[0]}."
        ) from None
    # Both walks are skipped when the bytes alone rule the fault out.
    if body.count(b"[") + body.count(b"{") > MAX_DEPTH:
        _refuse_depth(document)
    if b"\\u0000" in body:
        _refuse_nul(document)
    return document


def is_json(content_type: str) -> bool:
    """Whether a Content-Type names JSON: application/json or application/*+json."""
    kind = content_type.partition(";")[0].strip().lower()
    return kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))


def _refuse_depth(document: Any) -> None:
    level = [document]
    for _ in range(MAX_DEPTH):
        level = [value for holder in level for value in _values(holder) if type(value) in (dict, list)]
        if not level:
            return
    raise Malformed(f"The body is nested more than {MAX_DEPTH} levels deep.")


def _values(holder: Any) -> Any:
    return holder.values() if type(holder) is dict else holder if type(holder) is list else ()


def _refuse_nul(document: Any) -> None:
    stack: list[tuple[list[str | int], Any]] = [(["body"], document)]
    while stack:
        loc, value = stack.pop()
        if type(value) is str:
            if "\x00" in value:
                raise Invalid(
                    "A string holds the NUL character.",
                    errors=[{"loc": loc, "msg": "must not contain the NUL character"}],
                )
        elif type(value) is dict:
            if any("\x00" in name for name in value):
                raise Invalid(
                    "A field name holds the NUL character.", errors=[{"loc": loc, "msg": "no such field name"}]
                )
            stack += [([*loc, name], inner) for name, inner in value.items()]
        elif type(value) is list:
            stack += [([*loc, index], inner) for index, inner in enumerate(value)]


__all__ = [
    "MAX_DEPTH",
    "StrictRequest",
    "as_length",
    "bounded",
    "content_length",
    "is_json",
    "read_body",
    "strict_json",
]
