"""A registry with one pipeline."""

import uuid

import pytest

from shared.registry.session import Sessions
from tests.support.rows import Rows


@pytest.fixture
def rows(sessions: Sessions) -> Rows:
    return Rows(sessions)


@pytest.fixture
def pipeline(rows: Rows) -> uuid.UUID:
    return rows.pipeline()
