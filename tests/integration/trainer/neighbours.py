"""The data service and the validator as a cycle sees them: their REST contract over the registry's rows, and their faults."""

import uuid
from collections import Counter

import httpx
import orjson
from sqlalchemy import select
from sqlmodel import col

from services.trainer.peers import Peer, Peers
from shared.registry.states import DatasetState, Decision, ReleaseState, RunState, ValidationState
from shared.registry.tables import Cycle, Dataset, ModelVersion, Run, Validation
from tests.support.rows import AS_OF, Rows


class Neighbours:
    """Takes requests once a key, and moves the rows as their workers would."""

    def __init__(self, rows: Rows, pipeline: uuid.UUID) -> None:
        self.rows, self.pipeline = rows, pipeline
        self.away: set[str] = set()
        """Services that do not answer."""
        self.refusal: str | None = None
        """What both say to everything."""
        self.spec_version = 1
        """By which the data service builds."""
        self.asked: Counter[str] = Counter()
        """How often each Idempotency-Key came."""
        self._given: dict[str, uuid.UUID] = {}
        transport = httpx.MockTransport(self._answer)
        self.peers = Peers(
            *(
                Peer(name, f"http://{name}", "rlv_key", timeout_s=5, transport=transport)
                for name in ("data", "validator")
            )
        )

    def _answer(self, request: httpx.Request) -> httpx.Response:
        service = request.url.host
        if service in self.away:
            raise httpx.ConnectError("refused", request=request)
        if self.refusal:
            return httpx.Response(422, json={"detail": self.refusal})
        key = request.headers["idempotency-key"]
        self.asked[key] += 1
        if key not in self._given:
            body = orjson.loads(request.content)
            cycle = uuid.UUID(body["cycle"])
            if service == "data":
                assert request.url.path == "/v1/pipelines/trips/datasets"
                self._given[key] = self.rows.dataset(self.pipeline, cycle_id=cycle, spec_version=self.spec_version)
            else:
                assert request.url.path == "/v1/pipelines/trips/validations"
                self._given[key] = self.rows.validation(
                    self.pipeline, self._version_numbered(body["candidate"]), cycle_id=cycle
                )
        return httpx.Response(202, json={"id": str(self._given[key])})

    def build(self, cycle: uuid.UUID, state: DatasetState = DatasetState.READY, reason: str | None = None) -> None:
        """The dataset of the cycle ends."""
        facts = {"digest": "d" * 64, "train_end": AS_OF, "train_label_mean": 0.5}
        self.rows.set(Dataset, self._cycle(cycle).dataset_id, state=state, reason=reason, **facts)

    def train(self, cycle: uuid.UUID, state: RunState = RunState.SUCCEEDED, reason: str | None = None) -> None:
        """The run of the cycle ends, with a version when it succeeded."""
        run = self._cycle(cycle).run_id
        assert run is not None
        if state is RunState.SUCCEEDED:
            self.rows.version(self.pipeline, run)
        self.rows.set(Run, run, state=state, reason=reason)

    def judge(
        self,
        cycle: uuid.UUID,
        state: ValidationState,
        decision: Decision | None,
        *,
        release: ReleaseState | None = None,
        sentence: str | None = None,
        reason: str | None = None,
    ) -> None:
        """The verdict on the cycle's version falls, or its release goes on."""
        values = {"state": state, "decision": decision, "release_state": release, "sentence": sentence}
        self.rows.set(Validation, self._cycle(cycle).validation_id, **values, reason=reason)

    def _cycle(self, cycle: uuid.UUID) -> Cycle:
        found = self.rows.get(Cycle, cycle)
        assert isinstance(found, Cycle)
        return found

    def _version_numbered(self, number: int) -> uuid.UUID:
        with self.rows.sessions.begin() as session:
            query = select(ModelVersion.id).where(
                col(ModelVersion.pipeline_id) == self.pipeline, col(ModelVersion.number) == number
            )
            return session.scalars(query).one()
