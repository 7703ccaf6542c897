"""The short way from a socket to a raw route and back, for requests that can be answered without the general machinery.

    python -m uvicorn --http shared.web.express:ExpressProtocol ...

uvicorn's protocol makes a task, a scope, two events and four messages of every request, which costs more than a small prediction
does. A request for a raw route with an express handler is handed to it as soon as its body is there, and the answer is one write.
Clients send the same head again and again: one that came before, byte for byte, is not parsed again when its whole body came with
it. Whatever is unusual (a key not seen yet, a header or a row that must be looked at closely, a body that comes in pieces, a
request sent before the answer to the last one) goes the general way, which gives the same answers; tests hold the two to each
other.
"""

import time
from typing import Any

from starlette.types import Scope
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from shared.ids import new_id_number
from shared.keyring import KeyRing
from shared.observability.context import accept_request_id
from shared.web.body import as_length, is_json
from shared.web.raw import JSON, NO_PARAMETERS, Answer, Call
from shared.web.raw_routes import Head, RawRoutes

MOST_BYTES = HIGH_WATER_LIMIT
"""Of a body; with more, the general way stops reading for a while."""
OK_LINE = STATUS_LINE[200]
PLAIN_LINES = b"x-request-id: %b\r\nx-content-type-options: nosniff\r\n"
"""`plain_headers` as they stand in a head."""
ANSWER_LINES = b"content-type: %b\r\ncontent-length: %d\r\n" + PLAIN_LINES
HEAD_ENDS = b"\r\n\r\n"
MOST_HEAD_BYTES = 2048
"""A longer head is parsed each time."""
UNUSUAL = frozenset({b"expect", b"upgrade", b"transfer-encoding", b"content-encoding"})
"""Headers of requests that go the general way."""


class ExpressProtocol(HttpToolsProtocol):
    """One connection."""

    cycle: Any
    """The request under way or answered last: a `Turn`, or uvicorn's own cycle on the general way."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        routes: RawRoutes | None = getattr(self.app, "raw", None)
        plain = not (self.config.access_log or self.root_path or self.limit_concurrency)
        self._routes = routes if plain else None
        if self._routes is not None:
            state = self.app.state
            self.keys: KeyRing = state.keys
            self._most_bytes = min(MOST_BYTES, state.settings.body_limit_bytes)
        self._idle_since_s: float | None = None
        self._made: tuple[list[tuple[bytes, bytes]], bytes] | None = None
        self._parsing = False
        """A request is there in part."""
        self._new_head = b""
        """The head of the request that is parsed next, when it is not known."""
        self._declined = False
        """The request that is parsed next has to go the general way."""

    def data_received(self, data: bytes) -> None:
        if self._routes is not None and not self._parsing and self._answer_known(data, self._routes.heads):
            return
        super().data_received(data)
        turn = self.cycle
        if isinstance(turn, Turn) and not turn.begun:
            self._leave(turn, complete=False)

    def _answer_known(self, data: bytes, heads: dict[bytes, Head]) -> bool:
        """Hand a request whose head came before to its handler; False, with nothing done: it has to be parsed."""
        self._new_head = b""
        end = data.find(HEAD_ENDS, 0, MOST_HEAD_BYTES) + len(HEAD_ENDS)
        if end < len(HEAD_ENDS):
            return False
        head = heads.get(data[:end])
        if head is None:
            self._new_head = data[:end]
            return False
        before = self.cycle
        if len(data) - end != head.body_bytes or not self._is_free():
            return False
        self._idle_since_s = None
        turn = self.cycle = Turn(self, head)
        turn.body = data[end:]
        if not turn.begin():
            self.cycle, self._declined = before, True
        return turn.begun

    # What the parser tells

    def on_message_begin(self) -> None:
        self._parsing = True
        self._idle_since_s = None  # also when it came together with the one before, which was answered on the spot
        self.url = b""
        self.headers = []
        self.expect_100_continue = False

    def on_headers_complete(self) -> None:
        new, self._new_head = self._new_head, b""  # not that of a second request in the same data
        declined, self._declined = self._declined, False
        routes = self._routes
        head = None if declined or routes is None or not self._is_free() else self._head(routes)
        if head is None:
            self._general()
            return
        turn = self.cycle = Turn(self, head)
        turn.data = new

    def on_message_complete(self) -> None:
        self._parsing = False
        turn = self.cycle
        if not isinstance(turn, Turn):
            super().on_message_complete()
        elif not turn.begin():
            self._leave(turn, complete=True)
        elif turn.data and self._routes is not None and len(turn.body) == turn.head.body_bytes:
            self._routes.remember(turn.data, turn.head)

    def _is_free(self) -> bool:
        """Whether a request may be answered now: the last one is, and the client takes what it is sent."""
        before = self.cycle
        return (before is None or before.response_complete) and not self.flow.write_paused

    def _head(self, routes: RawRoutes) -> Head | None:
        """The head that was parsed, if such requests may go the short way."""
        found = routes.express(self.parser.get_method(), self.url)
        if found is None or self.parser.get_http_version() != "1.1" or not self.parser.should_keep_alive():
            return None
        headers = dict(self.headers)
        length = as_length(headers.get(b"content-length", b""))
        # A header given twice shows by the lengths.
        if len(headers) != len(self.headers) or not 0 < length <= self._most_bytes or not UNUSUAL.isdisjoint(headers):
            return None
        kind = headers.get(b"content-type", b"")
        if kind != JSON and not is_json(kind.decode("latin-1")):
            return None
        return Head(*found, self.url, headers, length)

    # The general way

    def _general(self) -> None:
        url, headers, expect = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()  # makes the scope
        self.url, self.expect_100_continue = url, expect
        self.headers += headers
        super().on_headers_complete()

    def _leave(self, turn: "Turn", *, complete: bool) -> None:
        """Go on the general way with a request whose head, and perhaps body, was read."""
        self.cycle = None
        self._general()
        self.cycle.body += turn.body
        if complete:
            super().on_message_complete()

    # Answering

    def write(self, turn: "Turn", answer: Answer) -> int:
        """Write an answer, and make ready for the next request; gives the bytes of its body."""
        body, kind, more = (
            (answer, JSON, ()) if isinstance(answer, bytes) else (answer.body, answer.content_type, answer.headers)
        )
        head = [OK_LINE, self._server_lines(), ANSWER_LINES % (kind, len(body), turn.call.request_id.encode())]
        if more:
            head += [b"%b: %b\r\n" % header for header in more]
        self._write(turn, head, body)
        return len(body)

    def refuse(self, turn: "Turn", error: Exception) -> None:
        """Write the problem that an error is. Where more comes than can be answered, most of the work is this."""
        route = turn.head.route
        made = route.refusal(turn.call, error)
        if made is None:
            response = route.problem(turn.call, self._scope_of(turn), error)
            turn.keep_alive = turn.keep_alive and response.headers.get("connection") != "close"
            own = [b"%b: %b\r\n" % header for header in response.raw_headers if header[0] != b"connection"]
            made = response.status_code, b"".join(own), bytes(response.body)
        status, lines, body = made
        plain = PLAIN_LINES % turn.call.request_id.encode()
        self._write(turn, [STATUS_LINE[status], self._server_lines(), lines, plain], body)
        route.measure(turn.call, status, turn.head.body_bytes, len(body))

    def _write(self, turn: "Turn", head: list[bytes], body: bytes) -> None:
        turn.response_complete = True
        transport = self.transport
        if transport.is_closing():
            return
        head += (b"\r\n" if turn.keep_alive else b"connection: close\r\n\r\n", body)
        transport.write(b"".join(head))
        if not turn.keep_alive:
            transport.close()
        self.on_response_complete()

    def _server_lines(self) -> bytes:
        """The server's own headers, which it makes anew each second."""
        headers, made = self.server_state.default_headers, self._made
        if made is None or made[0] is not headers:
            made = self._made = (headers, b"".join(b"%b: %b\r\n" % header for header in headers))
        return made[1]

    def _scope_of(self, turn: "Turn") -> Scope:
        return {
            "type": "http",
            "asgi": {"version": self.asgi_version, "spec_version": "2.3"},
            "http_version": "1.1",
            "server": self.server,
            "client": self.client,
            "scheme": self.scheme,
            "root_path": "",
            "headers": list(turn.head.headers.items()),
            "state": self.app_state.copy(),
            "method": "POST",
            "path": turn.head.address.decode("ascii"),
            "query_string": b"",
            "app": self.app,
        }

    # Idle connections: one timer for many requests, instead of one for each

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        if self.flow.read_paused:
            self.flow.resume_reading()
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            self._start_asgi_task(cycle, app)
            return
        self._idle_since_s = self.loop.time()
        if self.timeout_keep_alive_task is None:
            self._look_later(self.timeout_keep_alive)

    def _unset_keepalive_if_required(self) -> None:
        self._idle_since_s = None

    def connection_lost(self, exc: Exception | None) -> None:
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
        super().connection_lost(exc)

    def timeout_keep_alive_handler(self) -> None:
        idle_s = 0.0 if self._idle_since_s is None else self.loop.time() - self._idle_since_s
        if idle_s < self.timeout_keep_alive:
            self._look_later(self.timeout_keep_alive - idle_s)
        else:
            super().timeout_keep_alive_handler()

    def _look_later(self, after_s: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(after_s, self.timeout_keep_alive_handler)


class Turn:
    """One request on the short way. To the protocol it is the cycle under way; to the handler, what its answer is given to."""

    __slots__ = (
        "begun", "body", "call", "data", "disconnected", "head", "keep_alive", "message_event", "protocol",
        "response_complete",
    )  # fmt: skip

    def __init__(self, protocol: ExpressProtocol, head: Head) -> None:
        self.protocol, self.head = protocol, head
        self.body = self.data = b""
        self.begun = self.disconnected = self.response_complete = False
        self.keep_alive = True
        self.message_event: Any = NO_EVENT
        self.call: Call

    def begin(self) -> bool:
        """Hand the request to its handler; False: it has to go the general way."""
        head, protocol = self.head, self.protocol
        route, headers = head.route, head.headers
        caller = protocol.keys.recognised(headers.get(b"authorization", b""), route.scope)
        if caller is None:
            return False
        number, given = new_id_number(), headers.get(b"x-request-id")
        asked_as = number.to_bytes(16).hex() if given is None else accept_request_id(given.decode("latin-1"))
        began_s = time.perf_counter()
        self.call = Call(
            protocol.app, number, asked_as, head.path, headers, caller, self.body, "POST", began_s, NO_PARAMETERS
        )
        express = route.express
        assert express is not None
        self.begun = True
        try:
            self.begun = express(self.call, self)
        except Exception as error:  # noqa: BLE001 - answered as any other
            self.refuse(error)
        return self.begun

    def answer(self, answer: Answer) -> None:
        """The answer, once."""
        sent_bytes = self.protocol.write(self, answer)
        self.head.route.measure(self.call, 200, self.head.body_bytes, sent_bytes)

    def refuse(self, error: Exception) -> None:
        """Or why there is none."""
        if not self.response_complete:
            self.protocol.refuse(self, error)


class _NoEvent:
    def set(self) -> None:
        """Nobody waits for it."""


NO_EVENT = _NoEvent()
