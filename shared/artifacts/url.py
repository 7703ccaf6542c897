"""From a settings URL to the artifact store it names."""

from pathlib import Path
from urllib.parse import unquote, urlsplit

from shared.artifacts.base import ArtifactStore
from shared.artifacts.folder import FolderStore
from shared.artifacts.s3 import open_bucket


def open_store(url: str) -> ArtifactStore:
    """The store of `file:///absolute/folder`, `file://./relative/folder` (made when missing) or `s3://bucket/prefix`.

    An S3 store takes address, region and credentials from the standard AWS_* environment variables.

    Raises:
        ValueError: another URL.
        Unavailable: the folder cannot be made or opened.
    """
    parts = urlsplit(url)
    if parts.query or parts.fragment:
        raise ValueError("an artifact store's URL has no ? or # part; write those characters as %3F and %23")
    if parts.scheme == "s3" and parts.netloc:
        return open_bucket(parts.netloc, parts.path.strip("/"))
    if parts.scheme == "file":
        # A host is no folder, but a name that starts with a dot can only be a folder below the current one.
        folder = parts.netloc + parts.path if parts.netloc.startswith(".") else parts.path
        if folder.strip("/") and (parts.netloc in ("", "localhost") or parts.netloc.startswith(".")):
            return FolderStore(Path(unquote(folder)))
    raise ValueError("an artifact store's URL is file:///absolute/folder or s3://bucket/prefix")
