"""A scripted server for the client and the commands."""

from collections.abc import Iterator

import pytest

from cli.addresses import SERVICES, Addresses
from tests.unit.cli.scripted import Scripted, scripted_server


@pytest.fixture
def server() -> Iterator[Scripted]:
    with scripted_server() as app:
        yield app


@pytest.fixture
def addresses(server: Scripted) -> Addresses:
    """The same server stands for all four services."""
    return Addresses(**dict.fromkeys(SERVICES, server.address), key="rlv_key")
