"""The one exception tree. Each class carries its HTTP status and a stable slug; `shared.web.errors` is where it meets HTTP.

RelevoError
├── NotFound            404  the thing named does not exist
├── Unauthenticated     401  no key, or a key that is unknown, expired or revoked
├── Forbidden           403  the key lacks the scope or the pipeline
├── Conflict            409  the state of the row does not allow it; read it again
│   └── IllegalMove     409  a state machine was asked for a move it does not have
├── TooSlow             408  the body did not arrive in time
├── TooLarge            413  the body is over the limit
├── UnsupportedMedia    415  a content type the route does not read
├── Malformed           400  not JSON, not UTF-8, not Parquet
├── Invalid             422  well-formed, but a field is wrong (carries `errors`: loc and msg)
├── TooMany             429  one caller asks more often than it may (Retry-After)
├── Unavailable         503  a dependency is away; try again (Retry-After)
│   └── StoreFull       503  the artifact store has no room for it
├── ArtifactCorrupt     500  stored bytes do not have the digest that names them (never reaches a request)
├── ArtifactMissing     500  no artifact under that digest
├── LeaseLost           500  another worker took the row; stop at once (never reaches a request)
└── WorkerStops         500  this worker was asked to stop; hand the row over (never reaches a request)
"""

from collections.abc import Sequence
from typing import ClassVar, TypedDict


class FieldError(TypedDict):
    """One wrong field: where it stands in the body, and what is wrong and how to mend it. Never the value itself."""

    loc: list[str | int]
    msg: str


class RelevoError(Exception):
    """Something went wrong in Relevo."""

    status: ClassVar[int] = 500
    slug: ClassVar[str] = "internal"
    title: ClassVar[str] = "Internal error"
    retry_after_s: int | None = None
    """When to try again, if that helps; an instance may know better than its class."""

    def __init__(self, detail: str, *, errors: Sequence[FieldError] = ()) -> None:
        super().__init__(detail)
        self.detail = detail
        self.errors = list(errors)


class NotFound(RelevoError):
    """The thing named does not exist."""

    status, slug, title = 404, "not-found", "Not found"


class Unauthenticated(RelevoError):
    """No API key, or one that is unknown, expired or revoked."""

    status, slug, title = 401, "unauthenticated", "Unauthenticated"


class Forbidden(RelevoError):
    """The API key lacks the scope or the pipeline."""

    status, slug, title = 403, "forbidden", "Forbidden"


class Conflict(RelevoError):
    """The current state does not allow it; read it again."""

    status, slug, title = 409, "conflict", "Conflict"


class IllegalMove(Conflict):
    """A state machine was asked for a move it does not have."""

    slug = "illegal-move"


class TooSlow(RelevoError):
    """The body did not arrive in time."""

    status, slug, title = 408, "too-slow", "Request timeout"


class TooLarge(RelevoError):
    """The body is over the limit."""

    status, slug, title = 413, "too-large", "Body too large"


class UnsupportedMedia(RelevoError):
    """A content type this route does not read."""

    status, slug, title = 415, "unsupported-media-type", "Unsupported media type"


class Malformed(RelevoError):
    """The body is not what its content type says."""

    status, slug, title = 400, "malformed", "Malformed body"


class Invalid(RelevoError):
    """Well-formed, but one or more fields are wrong."""

    status, slug, title = 422, "invalid", "Invalid request"


class TooMany(RelevoError):
    """One caller asks more often than it may; others are answered."""

    status, slug, title = 429, "too-many-requests", "Too many requests"
    retry_after_s = 1


class Unavailable(RelevoError):
    """A dependency is away; try again shortly."""

    status, slug, title = 503, "unavailable", "Temporarily unavailable"
    retry_after_s = 2


class StoreFull(Unavailable):
    """The artifact store has no room: it may be too full, or the artifact too large."""


class ArtifactCorrupt(RelevoError):
    """Stored bytes do not have the digest that names them."""

    slug = "artifact-corrupt"


class ArtifactMissing(RelevoError):
    """No artifact is stored under that digest."""

    slug = "artifact-missing"


class LeaseLost(RelevoError):
    """Another worker holds the row now; this one must stop without writing."""

    slug = "lease-lost"


class WorkerStops(RelevoError):
    """This worker was asked to stop; what it holds is handed to another."""

    slug = "worker-stops"
