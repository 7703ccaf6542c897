"""Which version of which pipeline answers a request: live, canary or named by the caller."""

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from services.serving import assignment, metrics
from services.serving.instances import MAX_ERRORS
from services.serving.models.acquire import load_and_lease
from services.serving.models.catalogue import Pipeline
from services.serving.models.follower import Follower
from services.serving.models.loader import Loaded
from services.serving.models.slots import Lease, ModelSlots
from services.serving.rows import Row
from shared.errors import FieldError, Invalid, Malformed, NotFound, Unavailable
from shared.keys import Principal
from shared.web.raw import Call

T = TypeVar("T")


class Versions:
    """Chooses, and leases what it chose."""

    def __init__(self, follower: Follower, slots: ModelSlots, *, load_wait_s: float) -> None:
        self._follower = follower
        self._slots = slots
        self._load_wait_s = load_wait_s

    def live(self, name: str | None, caller: Principal) -> Lease | None:
        """The live version of a pipeline, or of the only one; None where that has to be looked at closely."""
        pipeline = self._follower.catalogue.pipelines.get(name) if name else self._sole(caller)
        if pipeline is None or pipeline.pointer is None or not caller.allows_pipeline(pipeline.name):
            return None
        return self._slots.lease_live(pipeline.name)

    def _sole(self, caller: Principal) -> Pipeline | None:
        """The pipeline of a caller who need not name it."""
        deployed = [pipeline for pipeline in self._follower.catalogue.visible(caller) if pipeline.pointer is not None]
        return deployed[0] if len(deployed) == 1 else None

    def choose(self, name: str | None, version: int | None, caller: Principal) -> Pipeline:
        """The pipeline a request is for.

        Args:
            name, version: as far as the caller names them.

        Raises:
            NotFound: no such pipeline, or nothing is deployed.
            Invalid: several are deployed, and none is named.
            Unavailable: the registry was not read yet.
        """
        if not self._follower.known:
            raise Unavailable("This replica has not read the registry yet; try again shortly.")
        visible = self._follower.catalogue.visible(caller)
        if name is not None:
            found = next((pipeline for pipeline in visible if pipeline.name == name), None)
            if found is None:
                raise NotFound("There is no pipeline of that name.")
            if found.pointer is None and version is None:
                raise NotFound(f"No version of {name} is deployed yet; a cycle or a promotion deploys one.")
            return found
        deployed = [pipeline for pipeline in visible if pipeline.pointer is not None]
        if not deployed:
            raise NotFound("No model is deployed yet; a cycle or a promotion deploys one.")
        if len(deployed) > 1:
            names = ", ".join(pipeline.name for pipeline in deployed[:MAX_ERRORS])
            error: FieldError = {"loc": ["body", "model"], "msg": f"is required: {names} are deployed"}
            raise Invalid(f"Several models are deployed; name one of them in `model`: {names}.", errors=[error])
        return deployed[0]

    async def lease(self, pipeline: Pipeline, version: int | None) -> Lease:
        """The version named, or the live one.

        Raises:
            NotFound: no such version.
            NotLoadable: it cannot serve.
            Unavailable: it is still being loaded.
        """
        if version is None:
            lease = self._slots.lease_live(pipeline.name)
            if lease is None:
                raise Unavailable(f"The live version of {pipeline.name} is still being loaded; try again shortly.")
            return lease
        pipeline.version(version)
        return self._slots.lease_pinned(pipeline.name, version) or await load_and_lease(
            self._slots, pipeline, version, self._slots.lease_pinned, wait_s=self._load_wait_s
        )

    def take_canary(self, call: Call, live: Lease, rows: Sequence[Row]) -> Lease | None:
        """A lease on the canary when the request is its to answer. One request is answered whole by one version."""
        given = call.headers.get(assignment.HEADER)
        key = given or live.loaded.codec.whom(rows[0]).encode("utf-8", "surrogatepass")
        if live.canary is None or not assignment.assigned(live.loaded.pipeline_id, key, live.canary.share):
            return None
        return self._slots.lease_canary(live)

    async def by_canary(
        self, call: Call, live: Lease, rows: Sequence[Row], read: Callable[[Loaded], Awaitable[T]]
    ) -> tuple[T, Lease] | None:
        """What the canary reads of a request that is its to answer, and its lease in place of the live one's.

        None leaves everything as it is: the request is the live version's, or fits the fields of the live version alone.
        """
        taken = self.take_canary(call, live, rows)
        if taken is None:
            return None
        try:
            found = await read(taken.loaded)
        except (Invalid, Malformed):
            taken.release()
            metrics.CANARY_UNREAD.labels(live.loaded.pipeline_name).inc()
            return None
        except BaseException:
            taken.release()
            live.release()
            raise
        live.release()
        return found, taken
