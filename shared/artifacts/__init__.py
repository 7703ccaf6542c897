"""Immutable bytes named by their sha256: datasets and models. `open_store(url)` gives the store of a settings URL."""

from shared.artifacts.base import ArtifactStore, Digest, check_digest
from shared.artifacts.url import open_store

__all__ = ["ArtifactStore", "Digest", "check_digest", "open_store"]
