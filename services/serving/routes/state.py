"""What the app's composition root made, as endpoints ask for it."""

from typing import Annotated

from fastapi import Depends, Request

from services.serving.config import ServingSettings
from services.serving.models.follower import Follower
from services.serving.models.slots import ModelSlots
from services.serving.offline.generations import Generations
from services.serving.offline.lookup import Lookups
from services.serving.postprocessing.changes import PostprocessingChanges
from services.serving.postprocessing.current import Configurations
from services.serving.predict import Predictor
from services.serving.prediction_log.spool import Spool
from services.serving.releases import Releases
from services.serving.shadow.mirror import Mirror
from services.serving.transactions import Transactions
from shared.artifacts import ArtifactStore
from shared.prediction_ids import PredictionIds


class Serving:
    """The parts of a running replica; `app.state.serving`."""

    def __init__(
        self,
        *,
        settings: ServingSettings,
        follower: Follower,
        slots: ModelSlots,
        spool: Spool,
        predictor: Predictor,
        transactions: Transactions,
        releases: Releases,
        configurations: Configurations,
        postprocessing: PostprocessingChanges,
        generations: Generations,
        lookups: Lookups,
        store: ArtifactStore,
        ids: PredictionIds,
        mirror: Mirror,
    ) -> None:
        self.settings = settings
        self.follower = follower
        self.slots = slots
        self.spool = spool
        self.predictor = predictor
        self.transactions = transactions
        self.releases = releases
        self.configurations = configurations
        self.postprocessing = postprocessing
        self.generations = generations
        self.lookups = lookups
        self.store = store
        self.ids = ids
        self.mirror = mirror

    # For readiness: each raises Unavailable with what is wrong.

    def check_log(self) -> None:
        """Predictions can be logged."""
        self.spool.check()

    def check_models(self) -> None:
        """Every deployed pipeline answers here."""
        self.follower.check_live()

    def check_canaries(self) -> None:
        """Every canary answers here."""
        self.follower.check_canaries()

    def check_registry_age(self) -> None:
        """What is known of the registry is not too old to serve."""
        self.follower.check_fresh(self.settings.registry_max_age_s)

    def check_postgres(self) -> None:
        """The registry answers."""
        self.follower.check_answering()


async def _serving(request: Request) -> Serving:
    found = request.app.state.serving
    assert isinstance(found, Serving)
    return found


ServingDep = Annotated[Serving, Depends(_serving)]
