"""Rolling back goes back through what was live, not back and forth."""

import uuid

import pytest

from services.serving.releases import rollback_target
from shared.registry.states import DeploymentAction
from shared.registry.tables import DeploymentChange

PROMOTE, ROLLBACK, CANARY = DeploymentAction.PROMOTE, DeploymentAction.ROLLBACK, DeploymentAction.CANARY
IDS = {number: uuid.UUID(int=number) for number in range(10)}


def history(*changes: tuple[str, int]) -> list[DeploymentChange]:
    return [
        DeploymentChange(pipeline_id=IDS[0], generation=generation, action=action, version_id=IDS[version], actor="t")
        for generation, (action, version) in enumerate(changes, start=1)
    ]


@pytest.mark.parametrize(
    ("changes", "target"),
    [
        ([], None),
        ([(PROMOTE, 1)], None),
        ([(PROMOTE, 1), (PROMOTE, 1)], None),
        ([(PROMOTE, 1), (PROMOTE, 2)], 1),
        ([(PROMOTE, 1), (PROMOTE, 2), (ROLLBACK, 1)], None),
        ([(PROMOTE, 1), (PROMOTE, 2), (PROMOTE, 3)], 2),
        ([(PROMOTE, 1), (PROMOTE, 2), (PROMOTE, 3), (ROLLBACK, 2)], 1),
        ([(PROMOTE, 1), (PROMOTE, 2), (ROLLBACK, 1), (PROMOTE, 3)], 1),
        ([(PROMOTE, 1), (PROMOTE, 2), (PROMOTE, 1)], 2),
        ([(PROMOTE, 1), (PROMOTE, 2), (PROMOTE, 1), (ROLLBACK, 2)], 1),
        ([(PROMOTE, 1), (PROMOTE, 2), (CANARY, 2), (CANARY, 2)], 1),
        ([(PROMOTE, 1), (PROMOTE, 2), (PROMOTE, 3), (ROLLBACK, 2), (CANARY, 2)], 1),
    ],
)
def test_the_version_before(changes: list[tuple[str, int]], target: int | None) -> None:
    assert rollback_target(history(*changes)) == (None if target is None else IDS[target])
