"""Building an earlier dataset again from its pins, to show that its digest is a function of what it names."""

import threading
from dataclasses import dataclass

from services.data import repository
from services.data.build import build, plan_of
from services.data.config import DataSettings
from services.data.manifest import read_rows_digests
from shared.artifacts import ArtifactStore
from shared.errors import Conflict, Unavailable
from shared.registry.session import Sessions
from shared.registry.states import DatasetState
from shared.scratch import scratch

_one_at_a_time = threading.Lock()


@dataclass(frozen=True)
class Rebuilt:
    """How a rebuilt dataset compares with the stored one."""

    number: int
    digest: str
    rebuilt_digest: str
    same_rows: bool

    @property
    def same(self) -> bool:
        """Whether the digests agree."""
        return self.digest == self.rebuilt_digest


def rebuild(sessions: Sessions, store: ArtifactStore, limits: DataSettings, pipeline: str, number: int) -> Rebuilt:
    """Build dataset `number` again and compare; nothing is stored.

    Raises:
        NotFound: no such dataset.
        Conflict: it is not ready.
        Unavailable: another rebuild runs in this process.
    """
    with sessions.begin() as session:
        dataset = repository.get_dataset(session, repository.get_pipeline(session, pipeline).id, number)
        if dataset.state != DatasetState.READY or dataset.digest is None:
            raise Conflict(f"The dataset is {dataset.state}; only one that is ready can be built again.")
        plan = plan_of(dataset, repository.get_spec(session, dataset.pipeline_id, dataset.spec_version))
    if not _one_at_a_time.acquire(blocking=False):
        raise Unavailable("Another dataset is being verified; try again when it is done.")
    try:
        with scratch() as folder:
            built = build(sessions, limits, plan, folder)
    finally:
        _one_at_a_time.release()
    rows = {name: entry.rows_sha256 for name, entry in built.manifest.splits.items()}
    same_rows = rows == read_rows_digests(store, dataset.digest)
    return Rebuilt(number, dataset.digest, built.manifest.digest, same_rows)
