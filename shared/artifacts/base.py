"""What every artifact store promises, and the digest that names an artifact.

An artifact is found by its digest alone: no caller, and so no client, ever names a path. Every read checks the digest
of what it read, so bytes that changed on disk or on the way are never handed out.
"""

import hashlib
import re
from pathlib import Path
from typing import Protocol

from shared.errors import Invalid

Digest = str
"""The sha256 of an artifact's bytes: 64 lower-case hex digits."""

CHUNK_BYTES = 1 << 20

_DIGEST = re.compile(r"[0-9a-f]{64}")


class ArtifactStore(Protocol):
    """Content-addressed storage. Methods block on I/O; all are safe to call from many threads and processes at once.

    Any method raises `Invalid` for a text that is no digest, and `Unavailable` when the storage is away
    (`StoreFull`: it has no room).
    """

    def put_bytes(self, data: bytes) -> Digest:
        """Store the bytes. Storing the same again changes nothing, or mends a damaged copy."""
        ...

    def put_file(self, path: Path) -> Digest:
        """Store a file's bytes without holding them in memory."""
        ...

    def get(self, digest: Digest) -> bytes:
        """The artifact's bytes.

        Raises:
            ArtifactMissing: nothing is stored under the digest.
            ArtifactCorrupt: what is stored does not have the digest.
        """
        ...

    def fetch(self, digest: Digest, cache_dir: Path) -> Path:
        """A local file with the artifact's bytes, verified now; to be read, never written.

        It lies in `cache_dir`, or in the store itself when that is local.

        Raises:
            ArtifactMissing, ArtifactCorrupt: as for `get`.
        """
        ...

    def exists(self, digest: Digest) -> bool:
        """Whether something is stored under the digest (unread, so unverified)."""
        ...

    def delete(self, digest: Digest) -> None:
        """Remove the artifact; nothing happens when it is not there."""
        ...

    def ping(self) -> None:
        """Raises Unavailable when the storage cannot be reached: for readiness."""
        ...


def check_digest(text: str) -> Digest:
    """The text, if it is a digest.

    Raises:
        Invalid: it is not.
    """
    if not isinstance(text, str) or _DIGEST.fullmatch(text) is None:
        raise Invalid("an artifact digest is 64 lower-case hex digits (the sha256 of its bytes)")
    return text


def sha256_hex(data: bytes) -> Digest:
    """The digest of bytes."""
    return hashlib.sha256(data).hexdigest()
