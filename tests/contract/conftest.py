"""A populated registry for whole-API tests, and quiet logging: an app's start would configure the process's."""

import pytest

from shared.config import CommonSettings
from shared.registry.session import Sessions
from tests.contract.world import World, make_world


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Apps leave the logging of the test run alone."""
    monkeypatch.setattr("shared.web.app.configure_logging", lambda *_: None)


@pytest.fixture
def world(relevo_env: dict[str, str], sessions: Sessions, quiet: None) -> World:
    """One row of each kind."""
    return make_world(sessions, CommonSettings())
