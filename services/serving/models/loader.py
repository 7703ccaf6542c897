"""From a version's digest to a warm model: fetched, verified, checked, loaded, with the reader of its instances."""

import time
import uuid
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from services.serving.errors import NotLoadable
from services.serving.models.catalogue import Pipeline, Version
from services.serving.models.model import Model, Signature, open_model, read_signature
from services.serving.models.recent import RecentRequests, Sample
from services.serving.models.rehearsal import check_golden, replay
from services.serving.rows import RowCodec
from shared.artifacts import ArtifactStore
from shared.artifacts.base import sha256_hex
from shared.errors import ArtifactCorrupt, ArtifactMissing, Invalid, Unavailable
from shared.instances import InstanceReader
from shared.spec import CategoryFeature, NumberFeature, PipelineSpec, parse

if TYPE_CHECKING:
    from services.serving.lane import Lane

CACHED_S = 3600.0
"""A cached artifact stays at least this long: it may be about to be loaded."""


@dataclass(slots=True, eq=False)
class Loaded:
    """A version that can answer: how its rows are read, and what scores them."""

    pipeline_id: uuid.UUID
    pipeline_name: str
    version: Version
    codec: RowCodec
    current_spec: int
    """The pipeline's spec version that `codec` knows beside the version's own."""
    model: Model
    load_s: float
    sample: Sample
    """Requests to its pipeline that were answered lately."""
    lane: "Lane | None" = None
    """What answers with it, made when it is first asked."""

    def reads_as(self, other: "Loaded") -> bool:
        """Whether rows that the other version read are just what this one would have read."""
        return (
            self.version.spec_version == other.version.spec_version
            and self.current_spec == other.current_spec
            and self.codec.fields == other.codec.fields
        )


class Loader:
    """Loads versions. Blocks; may be called from several threads."""

    def __init__(
        self, store: ArtifactStore, cache: Path, *, threads: int, recent: RecentRequests, max_instances: int
    ) -> None:
        """Prepare.

        Args:
            store: where artifacts are.
            cache: folder for verified copies of those that are far away.
            threads: intra-op threads of each session.
            recent: requests that a version must score before it may answer.
            max_instances: most rows in a request.
        """
        self._store = store
        self._cache = cache
        self._threads = threads
        self._recent = recent
        self._max_instances = max_instances

    def load(self, pipeline: Pipeline, number: int) -> Loaded:
        """Fetch, verify, check, load and warm one version, and rehearse with it.

        Raises:
            NotFound: no such version.
            NotLoadable: its artifact is missing, damaged, not a model that fits, or scores otherwise than it must; says which.
            Unavailable: the artifact store does not answer.
        """
        began = time.monotonic()
        version = pipeline.version(number)
        try:
            spec = parse(dict(pipeline.specs[version.spec_version]))
            signature = read_signature(version.signature)
            data = self._fetch(version.digest)
            model = open_model(data, signature, threads=self._threads)
            codec = codec_for(spec, parse(dict(pipeline.spec)), model.signature)
            sample = self._recent.of(pipeline.name)
            self._rehearse(version, model, codec, sample)
        except Unavailable:
            raise
        except (ArtifactCorrupt, ArtifactMissing, Invalid) as error:
            raise NotLoadable(f"Version {number} of {pipeline.name} cannot serve: {error.detail}") from error
        return Loaded(
            pipeline.id, pipeline.name, version, codec, pipeline.spec_version, model, time.monotonic() - began, sample
        )

    def _rehearse(self, version: Version, model: Model, codec: RowCodec, sample: Sample) -> None:
        codec.prepare(self._max_instances)
        if version.golden is not None:
            check_golden(model, codec, self._fetch(version.golden))
        now_us = time.time_ns() // 1000
        replay(model, codec, sample.newest(), now_us=now_us, max_instances=self._max_instances)

    def forget_others(self, keep: Collection[str]) -> None:
        """Remove cached copies of artifacts that are not in use and were not fetched just now."""
        forget_others(self._cache, keep)

    def _fetch(self, digest: str) -> bytes:
        try:
            data = self._store.fetch(digest, self._cache).read_bytes()
        except OSError as error:
            raise Unavailable(f"The artifact store cannot be read ({type(error).__name__}).") from error
        if sha256_hex(data) != digest:  # what was verified and what was read might differ
            raise ArtifactCorrupt(
                f"the stored bytes of artifact {digest} do not have this sha256; restore or rebuild it"
            )
        return data


def forget_others(cache: Path, keep: Collection[str]) -> None:
    """Remove copies in a cache folder that are not in use and were not fetched just now."""
    for path in cache.glob("??/*"):
        with suppress(OSError):
            if path.name not in keep and time.time() - path.stat().st_mtime > CACHED_S:
                path.unlink()


def refit(loaded: Loaded, pipeline: Pipeline) -> Loaded:
    """The same version, reading instances by the pipeline's current spec."""
    spec = parse(dict(pipeline.specs[loaded.version.spec_version]))
    codec = codec_for(spec, parse(dict(pipeline.spec)), loaded.model.signature)
    for max_instances in loaded.codec.prepared:
        codec.prepare(max_instances)
    return replace(loaded, codec=codec, current_spec=pipeline.spec_version, lane=None)


def codec_for(spec: PipelineSpec, current: PipelineSpec, signature: Signature) -> RowCodec:
    """How the instances of a version are read.

    A client may already send what the current spec added, and it is logged; the model reads its own spec's fields alone. So a swap
    between spec versions fails no request that fitted either. (A new timestamp or vector is accepted and not logged: read as a
    field of this version it would be required.)
    """
    names = set(spec.instance_fields)
    added = {name: feature for name, feature in current.input_features.items() if name not in names}
    optional = {
        name: feature.model_copy(update={"required": False})
        for name, feature in added.items()
        if isinstance(feature, NumberFeature | CategoryFeature)
    }
    extras = [name for name in (current.entity, *current.columns) if name and name not in names | added.keys()]
    merged = spec.model_copy(
        update={"features": {**spec.features, **optional}, "columns": list(dict.fromkeys([*spec.columns, *extras]))}
    )
    also = added.keys() - optional.keys()
    return RowCodec(InstanceReader(merged, also=also), merged, signature, decodes=not also)
