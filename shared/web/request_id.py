"""Gives every request an id: the client's when it is harmless, else a new one. It is in the answer, the logs and the tasks."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared.observability.context import accept_request_id, request_id

HEADER = b"x-request-id"


class RequestIdMiddleware:
    """Pure ASGI, outermost: whatever answers, the id is in the context before it and in the headers after it."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Set the context variable for the request; pass everything else through."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = next((value for name, value in scope["headers"] if name == HEADER), None)
        value = accept_request_id(None if given is None else given.decode("latin-1"))

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                # JSON and problem bodies must never be sniffed into something a browser runs.
                message["headers"] = [
                    *message.get("headers", ()),
                    (HEADER, value.encode()),
                    (b"x-content-type-options", b"nosniff"),
                ]
            await send(message)

        token = request_id.set(value)
        try:
            await self.app(scope, receive, send_with_id)
        finally:
            request_id.reset(token)
