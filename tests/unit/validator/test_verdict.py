"""How a verdict moves a version's state."""

import pytest

from services.validator.verdict import move_version
from shared.errors import IllegalMove
from shared.registry.states import VersionState
from shared.registry.tables import ModelVersion


@pytest.mark.parametrize(
    "before", [VersionState.CANDIDATE, VersionState.HELD, VersionState.REJECTED, VersionState.VALIDATED]
)
@pytest.mark.parametrize("after", [VersionState.VALIDATED, VersionState.HELD, VersionState.REJECTED])
def test_the_newest_verdict_counts_from_wherever_a_version_stands(before: VersionState, after: VersionState) -> None:
    version = ModelVersion(number=1, state=before.value)
    move_version(version, after)
    assert version.state == after


def test_a_retired_version_is_not_brought_back_by_a_verdict_that_holds_it() -> None:
    with pytest.raises(IllegalMove):
        move_version(ModelVersion(number=1, state="retired"), VersionState.HELD)
