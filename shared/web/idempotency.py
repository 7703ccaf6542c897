"""`Idempotency-Key`: a request that is sent again, after a time-out say, has its effect once and gets the first answer again.

The answer is stored in the transaction of its effect, so there is no moment at which one exists without the other. The record is
claimed by INSERT before the work begins: a second request with the same key waits in that INSERT until the first has committed (and
then replays) or rolled back (and then does the work itself).
"""

import hashlib
from collections.abc import Callable
from typing import Annotated, Any

import orjson
from fastapi import Header, Request
from fastapi.responses import Response
from pydantic import BaseModel
from sqlalchemy import update
from sqlalchemy.dialects.postgresql import insert
from sqlmodel import Session, col

from shared.errors import Invalid
from shared.registry.tables.access import IdempotencyRecord
from shared.web.auth import principal

IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        pattern=r"^[!-~]+$",
        description="Any text of your own that names this one request; send it again to repeat the request safely.",
    ),
]
"""Declare it as `key: IdempotencyKey = None` and hand it to `once`."""

Effect = Callable[[], tuple[int, BaseModel | dict[str, Any]]]


def once(session: Session, request: Request, key: str | None, effect: Effect) -> Response:
    """Do the effect and answer with its status and body; or, when this key was seen, answer as the first time.

    Call it inside the request's transaction (`SessionDep`). When `effect` raises, nothing is remembered and the request may be
    repeated. Keys belong to the caller and to the method and path. A replay has the header `Idempotent-Replay: true`.

    Raises:
        Invalid: the key was used with another body or query.
    """
    if key is None:
        status, body = effect()
        return _answer(status, _plain(body))
    digest = _digest(request)
    name = {
        "key_id": principal(request).key_id,
        "route": f"{request.method} {request.url.path}",
        "idempotency_key": key,
    }
    claim = insert(IdempotencyRecord).values(**name, body_digest=digest, status=0, body={}).on_conflict_do_nothing()
    claimed = session.execute(claim.returning(col(IdempotencyRecord.key_id))).one_or_none()
    if claimed is None:
        record = session.get_one(IdempotencyRecord, (name["key_id"], name["route"], key))
        if record.body_digest != digest:
            raise Invalid(
                "This Idempotency-Key was used for another request; send a new key with a new request.",
                errors=[{"loc": ["header", "Idempotency-Key"], "msg": "was used with another body"}],
            )
        return _answer(record.status, record.body, replay=True)
    status, body = effect()
    plain = _plain(body)
    session.execute(update(IdempotencyRecord).filter_by(**name).values(status=status, body=plain))
    return _answer(status, plain)


def _digest(request: Request) -> str:
    body: bytes = getattr(request, "body_read", b"")
    return hashlib.sha256(request.scope["query_string"] + b"\n" + body).hexdigest()


def _plain(body: BaseModel | dict[str, Any]) -> Any:
    return body.model_dump(mode="json", by_alias=True) if isinstance(body, BaseModel) else body


def _answer(status: int, body: Any, *, replay: bool = False) -> Response:
    response = Response(orjson.dumps(body), status_code=status, media_type="application/json")
    if replay:
        response.headers["idempotent-replay"] = "true"
    return response
