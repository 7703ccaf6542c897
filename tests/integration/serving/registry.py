"""Registry rows as the data service, the trainer and the validator write them, with real ONNX artifacts behind."""

import uuid
from datetime import UTC, datetime
from typing import Any

from sqlmodel import Session, select

from shared.artifacts import ArtifactStore
from shared.artifacts.base import sha256_hex
from shared.contracts.scopes import ADMIN, Scope
from shared.golden import Golden, encode
from shared.keys import ensure_key
from shared.registry.session import Sessions
from shared.registry.states import DatasetState, Decision, RunState, ValidationState, VersionState
from shared.registry.tables import (
    Dataset,
    Deployment,
    DeploymentChange,
    ModelVersion,
    Pipeline,
    Run,
    SpecVersion,
    Validation,
)
from shared.spec import parse, spec_digest
from tests.unit.serving.tiny_model import SIGNATURE, SPEC

ADMIN_KEY = "rlv_aaaaaaaaaaaa_" + "a" * 43
PREDICT_KEY = "rlv_bbbbbbbbbbbb_" + "b" * 43
READ_KEY = "rlv_cccccccccccc_" + "c" * 43
AS_OF = datetime(2013, 6, 1, tzinfo=UTC)


class Registry:
    """Writes rows."""

    def __init__(self, sessions: Sessions, store: ArtifactStore) -> None:
        self.sessions = sessions
        self.store = store
        with sessions.begin() as session:
            ensure_key(session, ADMIN_KEY, "admin", ADMIN)
            ensure_key(session, PREDICT_KEY, "shop", [Scope.PREDICT])
            ensure_key(session, READ_KEY, "viewer", [Scope.READ])

    def pipeline(self, name: str = "delays", **changes: Any) -> uuid.UUID:
        """A pipeline with its first spec version."""
        spec = parse({**SPEC, "name": name, **changes})
        with self.sessions.begin() as session:
            row = Pipeline(name=name, spec_version=1)
            session.add(row)
            session.flush()
            self._spec(session, row.id, 1, spec)
            return row.id

    def respec(self, name: str = "delays", **changes: Any) -> None:
        """A new spec version."""
        with self.sessions.begin() as session:
            row = session.exec(select(Pipeline).where(Pipeline.name == name)).one()
            row.spec_version += 1
            self._spec(session, row.id, row.spec_version, parse({**SPEC, "name": name, **changes}))

    def version(
        self,
        model: bytes,
        name: str = "delays",
        *,
        verdict: Decision | None = Decision.PROMOTE,
        signature: dict[str, Any] | None = None,
        stored: bool = True,
        golden: Golden | None = None,
    ) -> int:
        """A version with its dataset, run and verdict; returns its number."""
        digest = self.store.put_bytes(model) if stored else sha256_hex(model)
        vectors = {} if golden is None else {"golden": self.store.put_bytes(encode(golden))}
        with self.sessions.begin() as session:
            pipeline = session.exec(select(Pipeline).where(Pipeline.name == name)).one()
            number = len(session.exec(select(ModelVersion).where(ModelVersion.pipeline_id == pipeline.id)).all()) + 1
            dataset = Dataset(
                pipeline_id=pipeline.id,
                number=number,
                spec_version=pipeline.spec_version,
                state=DatasetState.READY,
                as_of=AS_OF,
            )
            session.add(dataset)
            session.flush()
            run = Run(
                pipeline_id=pipeline.id,
                dataset_id=dataset.id,
                spec_version=pipeline.spec_version,
                state=RunState.SUCCEEDED,
                seed=7,
            )
            session.add(run)
            session.flush()
            state = {
                None: VersionState.CANDIDATE,
                Decision.PROMOTE: VersionState.VALIDATED,
                Decision.REJECT: VersionState.REJECTED,
            }
            version = ModelVersion(
                pipeline_id=pipeline.id,
                number=number,
                run_id=run.id,
                dataset_id=dataset.id,
                spec_version=pipeline.spec_version,
                state=state[verdict],
                digest=digest,
                size_bytes=len(model),
                signature={**(signature or SIGNATURE), **vectors},
                as_of=AS_OF,
                train_end=AS_OF,
                train_label_mean=0.25,
            )
            session.add(version)
            session.flush()
            if verdict is not None:
                passed = ValidationState.PASSED if verdict is Decision.PROMOTE else ValidationState.REJECTED
                session.add(
                    Validation(pipeline_id=pipeline.id, candidate_id=version.id, state=passed, decision=verdict)
                )
            return number

    def judge(self, number: int, decision: Decision, name: str = "delays") -> None:
        """One more verdict on a version."""
        rejected = decision is Decision.REJECT
        with self.sessions.begin() as session:
            version = session.exec(
                select(ModelVersion).join(Pipeline).where(Pipeline.name == name, ModelVersion.number == number)
            ).one()
            version.state = VersionState.REJECTED if rejected else VersionState.VALIDATED
            state = ValidationState.REJECTED if rejected else ValidationState.PASSED
            session.add(
                Validation(pipeline_id=version.pipeline_id, candidate_id=version.id, state=state, decision=decision)
            )

    def deploy(self, number: int, name: str = "delays", generation: int = 1) -> None:
        """Move the pointer as another replica would."""
        with self.sessions.begin() as session:
            pipeline = session.exec(select(Pipeline).where(Pipeline.name == name)).one()
            version = session.exec(
                select(ModelVersion).where(ModelVersion.pipeline_id == pipeline.id, ModelVersion.number == number)
            ).one()
            row = session.get(Deployment, pipeline.id) or Deployment(
                pipeline_id=pipeline.id, generation=0, live_version_id=version.id, updated_at=AS_OF
            )
            before = row.live_version_id if row.generation else None
            row.generation, row.live_version_id = generation, version.id
            session.add(row)
            session.flush()
            session.add(
                DeploymentChange(
                    pipeline_id=pipeline.id,
                    generation=generation,
                    action="promote",
                    version_id=version.id,
                    previous_version_id=before,
                    actor="another replica",
                )
            )

    @staticmethod
    def _spec(session: Session, pipeline_id: uuid.UUID, number: int, spec: Any) -> None:
        session.add(
            SpecVersion(
                pipeline_id=pipeline_id,
                number=number,
                digest=spec_digest(spec),
                spec=spec.model_dump(mode="json"),
                created_by="test",
            )
        )
