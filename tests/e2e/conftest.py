"""One stack for all end-to-end tests. Its end is a test of its own: nothing may be left running."""

from collections.abc import Iterator

import pytest

from tests.e2e.stack import Stack, free_base


@pytest.fixture(scope="package")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The stack, as `relevo up --detach` starts it in a new home."""
    running = Stack(tmp_path_factory.mktemp("e2e") / "home", free_base())
    try:
        yield running
    finally:
        running.down()
