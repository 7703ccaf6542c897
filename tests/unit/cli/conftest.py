"""A scripted server for the client and the commands."""

from collections.abc import Iterator

import pytest

from cli.addresses import SERVICES, Addresses
from tests.unit.cli.scripted import Scripted, scripted_server


@pytest.fixture(scope="session")
def _running() -> Iterator[Scripted]:
    with scripted_server() as app:
        yield app


@pytest.fixture
def server(_running: Scripted) -> Scripted:
    _running.reset()
    return _running


@pytest.fixture
def addresses(server: Scripted) -> Addresses:
    """The same server stands for all four services."""
    return Addresses(**dict.fromkeys(SERVICES, server.address), key="rlv_key")
