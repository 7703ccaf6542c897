"""The short way from a socket to a raw route and back, for requests that can be answered without the general machinery.

    python -m uvicorn --http shared.web.express:ExpressProtocol ...

uvicorn's protocol makes a task, a scope, two events and four messages of every request, which costs more than a small prediction
does. A request for a raw route with an express handler is handed to it as soon as its body is there, and the answer is one write.
Whatever is unusual (a key not seen yet, a header or a row that must be looked at closely, a body that comes in pieces, a request
sent before the answer to the last one) goes the general way, which gives the same answers; tests hold the two to each other.
"""

from collections.abc import Mapping
from typing import Any

from starlette.types import Scope
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from shared.ids import new_id_number
from shared.observability.context import accept_request_id
from shared.web.body import as_length, is_json
from shared.web.raw import Answer, Call, RawRoute, RawRoutes, Reply

MOST_BYTES = HIGH_WATER_LIMIT
"""Of a body; with more, the general way stops reading for a while."""
OK_LINE = STATUS_LINE[200]
PLAIN_LINES = b"x-request-id: %b\r\nx-content-type-options: nosniff\r\n"
"""`plain_headers` as they stand in a head."""
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
        self._idle_since_s: float | None = None
        self._made: tuple[list[tuple[bytes, bytes]], bytes] | None = None

    # What the parser tells

    def on_message_begin(self) -> None:
        self._idle_since_s = None  # also when it came together with the one before, which was answered on the spot
        self.url = b""
        self.headers = []
        self.expect_100_continue = False

    def on_headers_complete(self) -> None:
        turn = self._turn()
        if turn is None:
            self._general()
        else:
            self.cycle = turn

    def on_message_complete(self) -> None:
        turn = self.cycle
        if not isinstance(turn, Turn):
            super().on_message_complete()
        elif not turn.begin():
            self._leave(turn, complete=True)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        turn = self.cycle
        if isinstance(turn, Turn) and not turn.begun:
            self._leave(turn, complete=False)

    def _turn(self) -> "Turn | None":
        before = self.cycle
        if self._routes is None or self.flow.write_paused or not (before is None or before.response_complete):
            return None
        found = self._routes.express(self.parser.get_method(), self.url)
        if found is None or self.parser.get_http_version() != "1.1" or not self.parser.should_keep_alive():
            return None
        headers = dict(self.headers)
        length = as_length(headers.get(b"content-length", b""))
        # A header given twice shows by the lengths.
        if len(headers) != len(self.headers) or not 0 < length <= MOST_BYTES or not UNUSUAL.isdisjoint(headers):
            return None
        route, path = found
        return Turn(self, route, path, self.url, headers)

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

    def write(self, turn: "Turn", answer: Answer) -> None:
        """Write an answer, and make ready for the next request."""
        reply = Reply(answer) if isinstance(answer, bytes) else answer
        body = reply.body
        self._write(
            turn,
            [
                OK_LINE,
                self._server_lines(),
                b"content-type: %b\r\ncontent-length: %d\r\n" % (reply.content_type, len(body)),
                PLAIN_LINES % turn.call.request_id.encode(),
                *(b"%b: %b\r\n" % header for header in reply.headers),
            ],
            body,
        )

    def refuse(self, turn: "Turn", error: Exception) -> None:
        """Write the problem that an error is. Where more comes than can be answered, most of the work is this."""
        made = turn.route.refusal(turn.call, error)
        if made is None:
            response = turn.route.problem(turn.call, self._scope_of(turn), error)
            turn.keep_alive = turn.keep_alive and response.headers.get("connection") != "close"
            own = [b"%b: %b\r\n" % header for header in response.raw_headers if header[0] != b"connection"]
            made = response.status_code, b"".join(own), bytes(response.body)
        status, lines, body = made
        plain = PLAIN_LINES % turn.call.request_id.encode()
        self._write(turn, [STATUS_LINE[status], self._server_lines(), lines, plain], body)
        turn.route.measure(turn.call, status, len(body))

    def _write(self, turn: "Turn", head: list[bytes], body: bytes) -> None:
        turn.response_complete = True
        if self.transport.is_closing():
            return
        head += (b"\r\n" if turn.keep_alive else b"connection: close\r\n\r\n", body)
        self.transport.write(b"".join(head))
        if not turn.keep_alive:
            self.transport.close()
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
            "headers": list(turn.headers.items()),
            "state": self.app_state.copy(),
            "method": "POST",
            "path": turn.address.decode("ascii"),
            "query_string": b"",
            "app": self.app,
        }

    # Idle connections: one timer for many requests, instead of one for each

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
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
        "address", "begun", "body", "call", "disconnected", "headers", "keep_alive", "message_event", "path",
        "protocol", "response_complete", "route",
    )  # fmt: skip

    def __init__(
        self,
        protocol: ExpressProtocol,
        route: RawRoute,
        path: Mapping[str, str],
        address: bytes,
        headers: dict[bytes, bytes],
    ) -> None:
        self.protocol, self.route, self.path, self.address, self.headers = protocol, route, path, address, headers
        self.body = b""
        self.begun = self.disconnected = self.response_complete = False
        self.keep_alive = True
        self.message_event: Any = NO_EVENT
        self.call: Call

    def begin(self) -> bool:
        """Hand the request to its handler; False: it has to go the general way."""
        headers, app = self.headers, self.protocol.app
        caller = app.state.keys.recognised(headers.get(b"authorization", b""), self.route.scope)
        if caller is None or len(self.body) > app.state.settings.body_limit_bytes:
            return False
        kind = headers.get(b"content-type", b"")
        if kind != b"application/json" and not is_json(kind.decode("latin-1")):
            return False
        number, given = new_id_number(), headers.get(b"x-request-id")
        asked_as = f"{number:032x}" if given is None else accept_request_id(given.decode("latin-1"))
        self.call = Call(app, number, asked_as, self.path, headers, caller, self.body)
        express = self.route.express
        assert express is not None
        self.begun = True
        try:
            self.begun = express(self.call, self)
        except Exception as error:  # noqa: BLE001 - answered as any other
            self.refuse(error)
        return self.begun

    def answer(self, answer: Answer) -> None:
        """The answer, once."""
        self.protocol.write(self, answer)
        body = answer if isinstance(answer, bytes) else answer.body
        self.route.measure(self.call, 200, len(body))

    def refuse(self, error: Exception) -> None:
        """Or why there is none."""
        if not self.response_complete:
            self.protocol.refuse(self, error)


class _NoEvent:
    def set(self) -> None:
        """Nobody waits for it."""


NO_EVENT = _NoEvent()
