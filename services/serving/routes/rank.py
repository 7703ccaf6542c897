"""POST /v1/models/{p}/rank: a raw route, as those of `predict`."""

from services.serving.postprocessing.schemas import RankRequest, RankResponse
from services.serving.routes.predict import predicts
from services.serving.routes.state import Serving
from shared.contracts.scopes import Scope
from shared.web.auth import GuardedRouter
from shared.web.raw import Answer, Call, raw

router = GuardedRouter(tags=["predict"])


@raw(
    router,
    "/v1/models/{p}/rank",
    scope=Scope.PREDICT,
    response_model=RankResponse,
    **predicts(RankRequest),
)
async def rank(call: Call) -> Answer:
    """Put candidates in order with the live model and the stages in force. Each that was scored is logged, raw and final."""
    serving: Serving = call.app.state.serving
    return await serving.predictor.rank(call, call.path["p"])
