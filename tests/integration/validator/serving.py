"""Serving's side of a promotion, over HTTP in memory: its own compare-and-set in the registry, without a model server around it."""

import uuid
from collections.abc import Callable
from typing import Any

import httpx
import orjson

from services.serving import releases
from services.serving.schemas import PromoteRequest
from services.validator.serving_client import ServingClient
from shared.errors import RelevoError
from shared.registry.session import Sessions


class Serving:
    """Answers promotions through `services.serving.releases.promote`, and can be told to misbehave first."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self.asked: list[dict[str, Any]] = []
        self.before: Callable[[], None] = lambda: None
        """Runs before each promotion: what happens in the world at the worst moment."""
        self.answers: list[httpx.Response | Exception] = []
        """Given instead of promoting, one a call, while there are any."""
        self.lose_answer = False
        """Promote, and then break the connection."""
        self.client = ServingClient("http://serving", "rlv_key", transport=httpx.MockTransport(self._answer))

    def _answer(self, request: httpx.Request) -> httpx.Response:
        body = orjson.loads(request.content)
        self.asked.append(body)
        assert request.headers["authorization"] == "Bearer rlv_key"
        self.before()
        if self.answers:
            answer = self.answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer
        name = request.url.path.split("/")[3]
        try:
            with self._sessions.begin() as session:
                order = PromoteRequest.model_validate(body)
                released = releases.promote(session, name, order, "services")
        except RelevoError as error:
            return problem(error.status, error.detail, error.slug)
        if self.lose_answer:
            raise httpx.ReadError("connection reset")
        return httpx.Response(200, json={"live_version": released.live, "generation": released.generation})


def problem(status: int, detail: str, slug: str = "conflict") -> httpx.Response:
    return httpx.Response(
        status, json={"type": f"urn:relevo:problem:{slug}", "detail": detail, "request_id": uuid.uuid4().hex}
    )
