"""The live API keys' hashes on local disk, so that a replica that starts while Postgres is away knows who may predict.

What is saved ages like any reading: past `RELEVO_KEYS_MAX_AGE_S` nobody is let in, and administration is closed at once.
"""

import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import structlog

from shared.keyring import KeyRing, Loader, Reading, StoredKey
from shared.keys import Principal

log = structlog.stdlib.get_logger(__name__)

SAVE_EVERY_S = 60.0


class SavedKeys:
    """A key ring's loader that keeps a copy of what it read."""

    def __init__(self, load: Loader, path: Path) -> None:
        self._load = load
        self._path = path
        self._saved: tuple[float, Reading] | None = None

    def __call__(self) -> Reading:
        """Read the registry. Raises whatever that raises."""
        reading = self._load()
        now_s = time.monotonic()
        if self._saved is None or self._saved[1].keys != reading.keys or now_s - self._saved[0] > SAVE_EVERY_S:
            self._saved = (now_s, reading)
            self._save(reading)
        return reading

    def resume(self, ring: KeyRing) -> None:
        """Give the ring what an earlier process saved, with its true age; nothing when there is none."""
        try:
            document = orjson.loads(self._path.read_bytes())
            reading = Reading(
                datetime.fromisoformat(document["at"]), {key["id"]: _key(key) for key in document["keys"]}
            )
        except FileNotFoundError:
            return
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.warning("the saved API keys cannot be used", file=self._path.name, error=type(error).__name__)
            return
        ring.resume(reading, max(0.0, (datetime.now(UTC) - reading.at).total_seconds()))

    def _save(self, reading: Reading) -> None:
        data = orjson.dumps({"at": reading.at.isoformat(), "keys": [_document(key) for key in reading.keys.values()]})
        temporary = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self._path)
        except OSError as error:
            log.warning("the API keys cannot be saved for the next start", error=type(error).__name__)


def _document(key: StoredKey) -> dict[str, Any]:
    holder = key.principal
    return {
        "id": holder.key_id,
        "name": holder.name,
        "scopes": sorted(holder.scopes),
        "pipelines": None if holder.pipelines is None else sorted(holder.pipelines),
        "secret_hash": key.secret_hash,
        "expires_at": key.expires_at and key.expires_at.isoformat(),
    }


def _key(document: dict[str, Any]) -> StoredKey:
    pipelines, expires_at = document["pipelines"], document["expires_at"]
    holder = Principal(
        document["id"],
        document["name"],
        frozenset(document["scopes"]),
        None if pipelines is None else frozenset(pipelines),
    )
    return StoredKey(
        holder, document["secret_hash"], None if expires_at is None else datetime.fromisoformat(expires_at)
    )
