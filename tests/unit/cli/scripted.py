"""A small real HTTP server inside the test: it answers from a script and remembers what it was asked."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson
import uvicorn


@dataclass
class Asked:
    """One request as it arrived."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)


@dataclass
class Answer:
    """One answer: `body` as JSON, or bytes as they are; `drop` closes the connection without one."""

    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    drop: bool = False


class Scripted:
    """An ASGI app that gives the answers of its script in turn, the last one again and again."""

    script: list[Answer]
    asked: list[Asked]
    address = ""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget everything: a script of one empty object, nothing asked."""
        self.script = [Answer(body={})]
        self.asked = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        self.asked.append(
            Asked(scope["method"], scope["raw_path"].decode(), scope["query_string"].decode(), headers, body)
        )
        answer = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        content = answer.body if isinstance(answer.body, bytes) else orjson.dumps(answer.body)
        sent = [(name.lower().encode(), value.encode()) for name, value in answer.headers.items()]
        if answer.drop:
            # More is promised than is sent: the server closes the connection.
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"100")]})
            return
        await send({"type": "http.response.start", "status": answer.status, "headers": sent})
        await send({"type": "http.response.body", "body": content})


@contextmanager
def scripted_server() -> Iterator[Scripted]:
    """Run one on a free port of the loopback while the block runs."""
    app = Scripted()
    server = uvicorn.Server(
        uvicorn.Config(app, host="127.0.0.1", port=0, log_config=None, access_log=False, lifespan="off", ws="none")
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 30
    while not server.started:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    app.address = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    try:
        yield app
    finally:
        server.should_exit = True
        thread.join(timeout=30)
