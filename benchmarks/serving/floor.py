"""The floor: a bare ASGI app that parses the JSON and answers a constant. What is above it is Relevo's own work."""

import os

import orjson

ANSWER = b'{"model":"serving-bench","model_version":1,"predictions":[]}'
HEADERS = [(b"content-type", b"application/json"), (b"content-length", str(len(ANSWER)).encode())]


async def app(scope, receive, send) -> None:  # type: ignore[no-untyped-def]
    """ASGI; of the lifespan it takes nothing."""
    if scope["type"] != "http":
        raise RuntimeError("only http")
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    orjson.loads(body or b"null")
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": ANSWER})


if __name__ == "__main__":
    import uvicorn

    uvicorn.run(
        app, host="127.0.0.1", port=int(os.environ["PORT"]), loop="uvloop", http="httptools", log_level="error",
        access_log=False, lifespan="off", proxy_headers=False,
    )  # fmt: skip
