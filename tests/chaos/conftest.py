"""The trainer's processes with short leases, on a registry, a queue and a store of the test's own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.artifacts import open_store
from shared.registry.session import Sessions
from tests.chaos.trainer_processes import SHORT, Trainer
from tests.support.rows import Rows


@pytest.fixture
def trainer(
    relevo_env: dict[str, str], sessions: Sessions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Trainer]:
    """Nothing is started yet."""
    for name, value in SHORT.items():
        monkeypatch.setenv(name, value)
    started = Trainer(Rows(sessions), open_store(relevo_env["RELEVO_ARTIFACTS_URL"]), tmp_path)
    yield started
    started.close()
