"""The last catalogue on local disk: a replica that starts while Postgres is away serves what it last knew."""

import os
from datetime import datetime
from pathlib import Path

import orjson
import structlog

from services.serving.models.catalogue import Catalogue, from_document, to_document

log = structlog.stdlib.get_logger(__name__)

NAME = "state.json"
FORMAT = 1


def save(folder: Path, catalogue: Catalogue, read_at: datetime) -> None:
    """Write the catalogue whole or not at all.

    Raises:
        OSError: the disk does not take it.
    """
    temporary = folder / f"{NAME}.new"
    data = orjson.dumps({"format": FORMAT, "read_at": read_at.isoformat(), **to_document(catalogue)})
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(folder / NAME)


def load(folder: Path) -> tuple[Catalogue, datetime] | None:
    """The saved catalogue and when it was read from the registry; None when there is none that can be used."""
    try:
        document = orjson.loads((folder / NAME).read_bytes())
        if document["format"] != FORMAT:
            return None
        return from_document(document), datetime.fromisoformat(document["read_at"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        log.warning("the saved state cannot be used; starting without it", file=NAME, error=type(error).__name__)
        return None
