"""What the app's composition root made, as endpoints ask for it."""

from typing import Annotated

from fastapi import Depends, Request

from services.serving.config import ServingSettings
from services.serving.models.follower import Follower
from services.serving.models.slots import ModelSlots
from services.serving.predict import Predictor
from services.serving.releases import Releases
from services.serving.transactions import Transactions
from shared.prediction_ids import PredictionIds


class Serving:
    """The parts of a running replica; `app.state.serving`."""

    def __init__(
        self,
        *,
        settings: ServingSettings,
        follower: Follower,
        slots: ModelSlots,
        predictor: Predictor,
        transactions: Transactions,
        releases: Releases,
        ids: PredictionIds,
    ) -> None:
        self.settings = settings
        self.follower = follower
        self.slots = slots
        self.predictor = predictor
        self.transactions = transactions
        self.releases = releases
        self.ids = ids


async def _serving(request: Request) -> Serving:
    found = request.app.state.serving
    assert isinstance(found, Serving)
    return found


ServingDep = Annotated[Serving, Depends(_serving)]
