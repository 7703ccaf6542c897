"""A world with one pipeline, and the settings that point at it."""

import pytest

from services.validator.config import ValidatorSettings
from shared.registry.session import Sessions
from tests.integration.validator.serving import Serving
from tests.integration.validator.world import World


@pytest.fixture
def settings(relevo_env: dict[str, str]) -> ValidatorSettings:
    return ValidatorSettings()


@pytest.fixture
def world(sessions: Sessions, settings: ValidatorSettings) -> World:
    return World.make(sessions, settings.artifacts_url)


@pytest.fixture
def serving(sessions: Sessions) -> Serving:
    return Serving(sessions)
