"""Artifacts in an S3 bucket, or any store that obstore speaks to: `PREFIX/ab/abcd...`."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import BinaryIO

import obstore
from obstore.exceptions import BaseError
from obstore.store import ObjectStore, S3Store

from shared.artifacts.base import CHUNK_BYTES, Digest, check_digest, sha256_hex
from shared.artifacts.folder import FolderStore
from shared.errors import ArtifactCorrupt, ArtifactMissing, Conflict, Unavailable

_TIMEOUT = timedelta(seconds=30)
_CONNECT_TIMEOUT = timedelta(seconds=3)
_RETRIES = 3
_RETRY_FOR = timedelta(seconds=20)


class BucketStore:
    """An `ArtifactStore` over an obstore object store (S3; in memory for tests).

    An object appears whole or not at all, which S3 promises for single and for multipart uploads.
    """

    def __init__(self, store: ObjectStore, prefix: str = "") -> None:
        self._store = store
        self._prefix = f"{prefix}/" if prefix else ""

    def put_bytes(self, data: bytes) -> Digest:
        digest = sha256_hex(data)
        with _storage("write to"):
            obstore.put(self._store, self._key(digest), data)
        return digest

    def put_file(self, path: Path) -> Digest:
        """Store a file's bytes: read once for the digest, once for the upload.

        Raises:
            Conflict: the file changed in between; nothing is kept.
        """
        with path.open("rb") as source:
            digest = hashlib.file_digest(source, "sha256").hexdigest()
            source.seek(0)
            sent = _Hashed(source)
            with _storage("write to"):
                obstore.put(self._store, self._key(digest), sent.chunks())
        if sent.digest() != digest:
            self.delete(digest)
            raise Conflict("the file changed while it was being stored; write it whole first, then store it")
        return digest

    def get(self, digest: Digest) -> bytes:
        key = self._key(digest)
        with _storage("read", digest):
            data = bytes(obstore.get(self._store, key).bytes())
        if sha256_hex(data) != digest:
            raise ArtifactCorrupt(f"the stored bytes of artifact {digest} do not have this sha256; rebuild it")
        return data

    def fetch(self, digest: Digest, cache_dir: Path) -> Path:
        key = self._key(digest)
        cache = FolderStore(cache_dir)
        with suppress(ArtifactMissing, ArtifactCorrupt):
            return cache.verified(digest)
        with _storage("read", digest):
            stream = obstore.get(self._store, key).stream(min_chunk_size=CHUNK_BYTES)
            cache.write((bytes(chunk) for chunk in stream), expected=digest)
        return cache.verified(digest)

    def exists(self, digest: Digest) -> bool:
        key = self._key(digest)
        try:
            with _storage("read", digest):
                obstore.head(self._store, key)
        except ArtifactMissing:
            return False
        return True

    def delete(self, digest: Digest) -> None:
        key = self._key(digest)
        with _storage("delete from"), suppress(FileNotFoundError):
            obstore.delete(self._store, key)

    def ping(self) -> None:
        # A listing that finds nothing, yet tells a missing bucket and refused credentials from a working store.
        with _storage("list"):
            next(iter(obstore.list(self._store, f"{self._prefix}.ping")), None)

    def _key(self, digest: Digest) -> str:
        check_digest(digest)
        return f"{self._prefix}{digest[:2]}/{digest}"


class _Hashed:
    """A file's chunks on their way out, and the digest of what went."""

    def __init__(self, source: BinaryIO) -> None:
        self._source = source
        self._sha256 = hashlib.sha256()

    def chunks(self) -> Iterator[bytes]:
        while chunk := self._source.read(CHUNK_BYTES):
            self._sha256.update(chunk)
            yield chunk

    def digest(self) -> Digest:
        return self._sha256.hexdigest()


def open_bucket(bucket: str, prefix: str) -> BucketStore:
    """The bucket, with address, region and credentials from AWS_* variables (AWS_ENDPOINT_URL for other makers' S3).

    A plain http address is taken as meant: it is how S3-compatible servers run beside the product.
    """
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
    store = S3Store(
        bucket,
        region=region,
        client_options={
            "timeout": _TIMEOUT,
            "connect_timeout": _CONNECT_TIMEOUT,
            "allow_http": endpoint.startswith("http://"),
        },
        retry_config={"max_retries": _RETRIES, "retry_timeout": _RETRY_FOR},
    )
    return BucketStore(store, prefix)


@contextmanager
def _storage(doing: str, digest: Digest | None = None) -> Iterator[None]:
    """Tell obstore's errors as what they mean for the store; their own text, with addresses, goes to the log only."""
    try:
        yield
    except FileNotFoundError as error:
        if digest is not None:
            raise ArtifactMissing(f"no artifact {digest} is stored") from None
        raise Unavailable(f"cannot {doing} the artifact store: the bucket does not exist") from error
    except BaseError as error:
        reason = type(error).__name__.removesuffix("Error")
        raise Unavailable(
            f"cannot {doing} the artifact store (S3: {reason}); check its address, bucket and keys"
        ) from error
