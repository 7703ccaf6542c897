"""API keys: their text, what is kept of them, who holds one (`Principal`), and the use cases that create and revoke them.

A key reads `rlv_<12 hex id>_<43 characters>`: a public id to find the row by, and 256 random bits. Random secrets of that
size need no slow hash: one sha256 of the text is kept, compared in constant time. `shared.keyring` keeps the live ones at hand.
"""

import hashlib
import hmac
import re
import secrets
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select, tuple_
from sqlalchemy.dialects.postgresql import insert
from sqlmodel import Session, col

from shared.contracts.scopes import Scope
from shared.errors import Forbidden, Invalid, NotFound
from shared.registry.tables.access import ApiKey

_KEY = re.compile(r"rlv_([0-9a-f]{12})_([A-Za-z0-9_-]{43})")


def generate() -> str:
    """A new key text."""
    return f"rlv_{secrets.token_hex(6)}_{secrets.token_urlsafe(32)}"


def parse(text: str) -> str | None:
    """The id inside a well-formed key text; None for anything else."""
    match = _KEY.fullmatch(text)
    return match[1] if match else None


def hash_of(text: str) -> str:
    """sha256 hex of the key text: all that is ever stored."""
    return hashlib.sha256(text.encode()).hexdigest()


def same_hash(one: str, other: str) -> bool:
    """Compare two hashes in constant time."""
    return hmac.compare_digest(one, other)


@dataclass(frozen=True, slots=True)
class Principal:
    """Whoever holds a key that was checked: its scopes, and the pipelines it is limited to (None: all)."""

    key_id: str
    name: str
    scopes: frozenset[str]
    pipelines: frozenset[str] | None = None

    def allows(self, scope: Scope) -> bool:
        """Whether the key holds the scope."""
        return scope in self.scopes

    def allows_pipeline(self, name: str) -> bool:
        """Whether the key may see this pipeline at all."""
        return self.pipelines is None or name in self.pipelines

    def require(self, scope: Scope) -> None:
        """Insist on one more scope than the route declares.

        Raises:
            Forbidden: the key lacks it.
        """
        if scope not in self.scopes:
            raise Forbidden(f"This needs an API key with the scope `{scope}`.")

    def require_pipeline(self, name: str) -> None:
        """Insist on a pipeline that is not part of the path.

        Raises:
            NotFound: the key is not meant for it; the answer is that of a pipeline that does not exist.
        """
        if not self.allows_pipeline(name):
            raise no_such_pipeline()

    def covers(self, key: ApiKey) -> bool:
        """Whether the other key holds nothing that this one lacks."""
        within = self.pipelines is None or (key.pipelines is not None and self.pipelines.issuperset(key.pipelines))
        return within and self.scopes.issuperset(key.scopes)


def no_such_pipeline() -> NotFound:
    """One answer for a pipeline that does not exist and for one that is not the caller's, so that names do not leak."""
    return NotFound("There is no pipeline of that name.")


def create_key(
    session: Session,
    *,
    name: str,
    scopes: Collection[Scope],
    by: Principal,
    pipelines: Collection[str] | None = None,
    expires_at: datetime | None = None,
) -> tuple[ApiKey, str]:
    """Write a new key; the text is returned this once and never kept.

    Raises:
        Forbidden: the new key would hold a scope or a pipeline that its maker lacks.
        Invalid: it would have expired already, by the database's clock.
    """
    if missing := sorted(set(scopes) - by.scopes):
        raise Forbidden(f"A key cannot grant what it does not hold: {', '.join(missing)}.")
    text = generate()
    key = ApiKey(
        id=text.split("_")[1],
        name=name,
        secret_hash=hash_of(text),
        scopes=sorted(set(scopes)),
        pipelines=None if pipelines is None else sorted(set(pipelines)),
        created_at=session.execute(select(func.now())).scalar_one(),
        created_by=by.name,
        expires_at=expires_at,
    )
    if not by.covers(key):
        raise Forbidden("A key limited to pipelines can only grant some of those; name them in `pipelines`.")
    if expires_at is not None and expires_at <= key.created_at:
        raise Invalid(
            "`expires_at` has passed.", errors=[{"loc": ["body", "expires_at"], "msg": "must be in the future"}]
        )
    session.add(key)
    session.flush()
    return key, text


def list_keys(session: Session, by: Principal, *, limit: int, after: str | None = None) -> Sequence[ApiKey]:
    """Keys within the caller's pipelines, newest first, at most `limit`, those older than the key `after`."""
    order = tuple_(col(ApiKey.created_at), col(ApiKey.id))
    query = select(ApiKey).order_by(col(ApiKey.created_at).desc(), col(ApiKey.id).desc()).limit(limit)
    if by.pipelines is not None:
        query = query.where(col(ApiKey.pipelines).op("<@")(sorted(by.pipelines)))
    if after is not None:
        last = select(col(ApiKey.created_at), col(ApiKey.id)).where(col(ApiKey.id) == after)
        query = query.where(order < last.scalar_subquery())
    return session.execute(query).scalars().all()


def revoke_key(session: Session, key_id: str, by: Principal) -> ApiKey:
    """End a key for good; a second call changes nothing. Every process knows within about two seconds.

    Raises:
        NotFound: no such key, or one outside the caller's pipelines.
        Forbidden: the key holds more than the caller.
    """
    key = session.get(ApiKey, key_id, with_for_update=True)
    if key is None or (by.pipelines is not None and not by.pipelines.issuperset(key.pipelines or [""])):
        raise NotFound("There is no API key with that id.")
    if not by.covers(key):
        raise Forbidden("This key holds scopes that yours lacks, so yours cannot revoke it.")
    if key.revoked_at is None:
        key.revoked_at = session.execute(select(func.now())).scalar_one()
        session.add(key)
        session.flush()
    return key


def ensure_key(session: Session, text: str, name: str, scopes: Collection[Scope]) -> None:
    """Write the key that an operator gave in the environment, or bring its row up to date. A revoked key stays revoked.

    Raises:
        Invalid: not a key text; the message shows the form and how to make one.
    """
    key_id = parse(text)
    if key_id is None:
        raise Invalid(
            f"The {name} key must look like rlv_<12 hex digits>_<43 characters>; "
            'make one with: python -c "import shared.keys; print(shared.keys.generate())"'
        )
    row = {"name": name, "secret_hash": hash_of(text), "scopes": sorted(scopes)}
    statement = insert(ApiKey).values(id=key_id, created_by="environment", **row)
    session.execute(statement.on_conflict_do_update(index_elements=["id"], set_=row))
