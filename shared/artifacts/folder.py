"""Artifacts in a local or mounted folder (`file://`): `ROOT/ab/abcd...`, written whole or not at all."""

import errno
import hashlib
import os
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

from shared.artifacts.base import CHUNK_BYTES, Digest, check_digest, sha256_hex
from shared.errors import ArtifactCorrupt, ArtifactMissing, RelevoError, StoreFull, Unavailable

# Services may run as different users of one group: all may read, add and remove, nobody may change a file.
_FOLDER_MODE = 0o2770
_FILE_MODE = 0o440

_INCOMING = ".incoming"
_STALE_S = 86_400
_FULL = {errno.ENOSPC, errno.EDQUOT}


class FolderStore:
    """An `ArtifactStore` in one folder.

    A file comes into being by write, fsync, rename and fsync of its folder: after a crash at any moment it is there
    complete, or not there. Files are opened below a directory handle and without following symbolic links.
    """

    def __init__(self, root: Path) -> None:
        """Open the folder, making it when missing.

        Raises:
            Unavailable: it cannot be made or opened.
        """
        self._root = root.absolute()
        with _storage("open"):
            _make_folder(self._root)
            _make_folder(self._root / _INCOMING)
            self._remove_stale()

    def put_bytes(self, data: bytes) -> Digest:
        return self.write([data])

    def put_file(self, path: Path) -> Digest:
        with path.open("rb") as source:
            return self.write(read_chunks(source))

    def get(self, digest: Digest) -> bytes:
        with self._open(digest) as file:
            data = file.read()
        if sha256_hex(data) != digest:
            raise _corrupt(digest)
        return data

    def fetch(self, digest: Digest, cache_dir: Path) -> Path:
        """The store's own file, verified now: a local store needs no copy, and `cache_dir` stays unused."""
        return self.verified(digest)

    def exists(self, digest: Digest) -> bool:
        try:
            with self._open(digest):
                return True
        except (ArtifactMissing, ArtifactCorrupt):
            return False

    def delete(self, digest: Digest) -> None:
        path = self._path(digest)
        with _storage("delete from"), suppress(FileNotFoundError):
            path.unlink()
            _sync_folder(path.parent)

    def ping(self) -> None:
        with _storage("read"):
            os.close(os.open(self._root / _INCOMING, os.O_RDONLY | os.O_DIRECTORY))

    def verified(self, digest: Digest) -> Path:
        """The path of an artifact after its bytes were checked.

        Raises:
            ArtifactMissing, ArtifactCorrupt: as for `get`.
        """
        with self._open(digest) as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != digest:
            raise _corrupt(digest)
        return self._path(digest)

    def write(self, chunks: Iterable[bytes], *, expected: Digest | None = None) -> Digest:
        """Store what the chunks make together.

        Raises:
            ArtifactCorrupt: they do not make the digest `expected`; nothing is kept.
            StoreFull: the disk is full; nothing is kept.
            Unavailable: it cannot be written; nothing is kept.
        """
        temporary = self._root / _INCOMING / uuid4().hex
        try:
            with _storage("write to"):
                digest = _write_synced(temporary, chunks)
                if expected not in (None, digest):
                    raise _corrupt(expected)
                target = self._path(digest)
                _make_folder(target.parent)
                # An artifact already there has the same bytes, or is damaged and mended by this.
                temporary.replace(target)
                _sync_folder(target.parent)
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
        return digest

    def _path(self, digest: Digest) -> Path:
        check_digest(digest)
        return self._root / digest[:2] / digest

    @contextmanager
    def _open(self, digest: Digest) -> Iterator[BufferedReader]:
        check_digest(digest)
        try:
            descriptor = self._open_below_root(digest)
        except FileNotFoundError:
            raise ArtifactMissing(f"no artifact {digest} is stored") from None
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENOTDIR):
                raise ArtifactCorrupt(f"a symbolic link or a file stands in the way of artifact {digest}") from error
            raise _unavailable("read", error) from error
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise ArtifactCorrupt(f"what stands in the place of artifact {digest} is no regular file")
        with _storage("read"), open(descriptor, "rb") as file:
            yield file

    def _open_below_root(self, digest: Digest) -> int:
        root = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            shard = os.open(digest[:2], os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=root)
        finally:
            os.close(root)
        try:
            # O_NONBLOCK: a named pipe put there must not hang the reader.
            return os.open(digest, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=shard)
        finally:
            os.close(shard)

    def _remove_stale(self) -> None:
        """Remove what writers killed in the middle left behind; a day is far longer than any write takes."""
        for left in (self._root / _INCOMING).iterdir():
            with suppress(OSError):
                if time.time() - left.lstat().st_mtime > _STALE_S:
                    left.unlink()


def read_chunks(source: BinaryIO) -> Iterator[bytes]:
    """The rest of a file in pieces of bounded size."""
    while chunk := source.read(CHUNK_BYTES):
        yield chunk


def _write_synced(path: Path, chunks: Iterable[bytes]) -> Digest:
    digest = hashlib.sha256()
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "wb") as file:
        for chunk in chunks:
            digest.update(chunk)
            file.write(chunk)
        file.flush()
        os.fchmod(file.fileno(), _FILE_MODE)
        os.fsync(file.fileno())
    return digest.hexdigest()


def _make_folder(path: Path) -> None:
    """Make a folder durable with its parents; one that exists keeps its mode."""
    if path.is_dir():
        return
    if not path.parent.is_dir():
        _make_folder(path.parent)
    with suppress(FileExistsError):
        path.mkdir()
        path.chmod(_FOLDER_MODE)
    _sync_folder(path.parent)


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _storage(doing: str) -> Iterator[None]:
    """Tell the operating system's errors as what they mean for the store."""
    try:
        yield
    except RelevoError:
        raise
    except OSError as error:
        raise _unavailable(doing, error) from error


def _unavailable(doing: str, error: OSError) -> Unavailable:
    # The reason without the path: this sentence may reach a client, the path only the log.
    if error.errno in _FULL:
        return StoreFull("the disk of the artifact store is full; free some space on it and try again")
    return Unavailable(f"cannot {doing} the artifact store: {error.strerror or type(error).__name__}")


def _corrupt(digest: Digest | None) -> ArtifactCorrupt:
    return ArtifactCorrupt(f"the stored bytes of artifact {digest} do not have this sha256; restore or rebuild it")
