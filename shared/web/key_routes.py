"""API keys over HTTP: create, list, revoke. The data service mounts it; every service honours the keys."""

from datetime import datetime
from typing import Annotated, Self

from fastapi import Path, Query
from pydantic import BaseModel, ConfigDict, Field

from shared.contracts.scopes import Scope
from shared.keys import create_key, list_keys, revoke_key
from shared.registry.tables.access import ApiKey
from shared.spec.types import Name, Text
from shared.web.auth import GuardedRouter, requires
from shared.web.deps import PrincipalDep, SessionDep
from shared.web.moments import Moment
from shared.web.pagination import Limit, Page

router = GuardedRouter(prefix="/v1/keys", tags=["keys"], dependencies=[requires(Scope.KEYS)])

KeyId = Annotated[str, Path(pattern="^[0-9a-f]{12}$")]


class KeyCreate(BaseModel):
    """A key to be made."""

    model_config = ConfigDict(extra="forbid")

    name: Annotated[Text, Field(min_length=1, max_length=200)]
    """Whom or what it is for; shown wherever the key acts."""
    scopes: Annotated[list[Scope], Field(min_length=1)]
    """What it may do; never more than the key that makes it."""
    pipelines: Annotated[list[Name], Field(min_length=1, max_length=1000)] | None = None
    """The pipelines it is limited to; absent: all."""
    expires_at: Moment | None = None
    """When it ends; absent: never."""


class KeyView(BaseModel):
    """A key as listed: everything but its secret, which nobody has."""

    id: str
    name: str
    scopes: list[str]
    pipelines: list[str] | None
    created_at: datetime
    created_by: str
    expires_at: datetime | None
    revoked_at: datetime | None

    @classmethod
    def of(cls, row: ApiKey) -> Self:
        """From the row."""
        return cls.model_validate(row, from_attributes=True)


class NewKey(KeyView):
    """A key just made: the only time its text is shown."""

    key: str


@router.get("")
def list_all(
    session: SessionDep,
    caller: PrincipalDep,
    limit: Limit = 50,
    after: Annotated[str | None, Query(pattern="^[0-9a-f]{12}$", description="`next` of the page before.")] = None,
) -> Page[KeyView]:
    """List keys, newest first, revoked ones too."""
    rows = list_keys(session, caller, limit=limit + 1, after=after)
    return Page(items=[KeyView.of(row) for row in rows[:limit]], next=rows[limit - 1].id if len(rows) > limit else None)


# No Idempotency-Key here: replaying the answer would mean to keep the secret.
@router.post("", status_code=201)
def create(body: KeyCreate, session: SessionDep, caller: PrincipalDep) -> NewKey:
    """Make a key. Its text is in the answer, this once."""
    row, text = create_key(
        session,
        name=body.name,
        scopes=body.scopes,
        by=caller,
        pipelines=body.pipelines,
        expires_at=body.expires_at,
    )
    return NewKey(**KeyView.of(row).model_dump(), key=text)


@router.post("/{id}/revoke")
def revoke(id: KeyId, session: SessionDep, caller: PrincipalDep) -> KeyView:  # noqa: A002 - the name in the path
    """End a key for good, everywhere within about two seconds."""
    return KeyView.of(revoke_key(session, id, caller))
