"""POST /feedback."""

import asyncio
from datetime import UTC, datetime
from typing import Any

from fastapi import Request, Response
from pydantic import TypeAdapter

from services.serving import metrics
from services.serving.feedback import Taken, take_feedback
from services.serving.routes.state import ServingDep
from services.serving.schemas import FeedbackItem, FeedbackResponse
from shared.contracts.scopes import Scope
from shared.errors import Invalid, UnsupportedMedia
from shared.web.auth import GuardedRouter, principal, requires
from shared.web.body import is_json, strict_json

router = GuardedRouter(tags=["feedback"])

_BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": {**TypeAdapter(list[FeedbackItem]).json_schema(), "minItems": 1}}},
    }
}


@router.post("/feedback", dependencies=[requires(Scope.FEEDBACK)], openapi_extra=_BODY, response_model=FeedbackResponse)
async def feedback(request: Request, serving: ServingDep) -> Response:
    """Tell the truth about predictions: early, late, repeated or corrected. Each item gets its own verdict."""
    if not is_json(request.headers.get("content-type", "")):
        raise UnsupportedMedia("Send the body as JSON: Content-Type: application/json.")
    body, received_at, limit = await request.body(), datetime.now(UTC), serving.settings.max_instances
    pipelines = serving.follower.catalogue.visible(principal(request))

    items = await asyncio.to_thread(lambda: _items(strict_json(body), limit))
    taken = await serving.transactions.run(
        lambda session: take_feedback(session, items, pipelines, serving.ids, received_at)
    )
    _count(taken)
    # Ten thousand verdicts, written on the event loop, would hold up predictions.
    body = await asyncio.to_thread(lambda: taken.report.model_dump_json(exclude_none=True).encode())
    return Response(body, media_type="application/json")


def _count(taken: Taken) -> None:
    report = taken.report
    for status, count in (
        ("accepted", report.accepted),
        ("duplicate", report.duplicates),
        ("rejected", report.rejected),
    ):
        metrics.FEEDBACK.labels(status).inc(count)
    for model, delays_s in taken.delays_s.items():
        tally = metrics.feedback_delay_seconds(model)
        for delay_s in delays_s:
            tally.observe(delay_s)


def _items(document: object, limit: int) -> list[Any]:
    if type(document) is not list or not 1 <= len(document) <= limit:
        raise Invalid(
            f"The body must be a list of 1 to {limit} feedback items.",
            errors=[{"loc": ["body"], "msg": f"must be a list of 1 to {limit} items"}],
        )
    return document
